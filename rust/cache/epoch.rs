//! Which entries a removal is about: those of an earlier epoch.

/// How many times everything was removed, and how many times something was.
///
/// An entry begins with an *open* epoch, which is closed when the entry is first seen in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(pub(super) u64);

impl Epoch {
    pub(super) const CLEAR: u64 = 1 << 32;
    pub(super) const GENERATION: u64 = 1;
    const OPEN: u32 = u32::MAX;

    pub(super) fn new(clears: u32, generation: u32) -> Self {
        Self(u64::from(clears) << 32 | u64::from(generation))
    }

    pub(super) fn open(generation: Option<u32>) -> Self {
        Self::new(Self::OPEN, generation.unwrap_or(Self::OPEN))
    }

    pub(super) fn is_open(self) -> bool {
        self.clears() == Self::OPEN
    }

    /// The epoch of an entry that is there now.
    pub(super) fn closed(self, now: Self) -> Self {
        let generation = self.generation();
        let began = if generation == Self::OPEN { now.generation() } else { generation };
        Self::new(now.clears(), began)
    }

    pub(super) fn clears(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn generation(self) -> u32 {
        self.0 as u32
    }
}

//! Who is the oldest: the exact order of use.
//!
//! Where threads run at once a use writes its tick and nothing else, and an eviction reads the oldest
//! entry off a `snapshot`, sorted now and then. Where threads take turns a use also moves its entry in
//! a `list`, so that no call ever sorts.

use super::entry::Entry;
use super::epoch::Epoch;
use super::tick::{Clock, Tick};
use crate::sync::{Ordering, Word};

#[cfg_attr(all(take_turns, not(any(loom, shuttle))), path = "list.rs")]
#[cfg_attr(not(all(take_turns, not(any(loom, shuttle)))), path = "snapshot.rs")]
mod kept;

pub(super) use kept::Order;

/// What an entry of the table is given by an eviction that meets it.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'c> {
    pub(super) clock: &'c Clock,
    pub(super) epoch: &'c Word,
}

impl Meeting<'_> {
    /// Gives an entry its epoch and its tick, if nobody has (E1); `None` if it is dead.
    ///
    /// Both: who was evicted tells that the entry was there, and so that its put came before a
    /// `clear` that begins later.
    fn with<K, V>(self, entry: &Entry<K, V>) -> Option<Tick> {
        // Acquire: as in `is_good`.
        entry.epoch(Epoch(self.epoch.load(Ordering::Acquire)));
        entry.settle(self.clock)
    }
}

//! The queue of a journal: bounded, for many producers and one drainer, in words that outlive the
//! process.
//!
//! The event at position `p` lies in slot `p % capacity`. A producer takes a position by moving `tail`,
//! writes the payload, and then stores `p + 1` into the slot's first word: from that store on the
//! event is accepted (J1). A process that is killed between the two leaves the slot as it was, with
//! the word of an earlier lap or none. The drainer reads positions in order and moves `head`, a word
//! of the journal like the slots: what lies before it is written and its slots may be used again. So
//! the events that a journal still owes are those with `head <= p` and the word `p + 1` (J2).
//!
//! Producers look at a copy of the limit `head + capacity` and ask `head` only when that says that the
//! ring is full; otherwise the drainer's progress costs them nothing.
//!
//! Positions only grow, so those of one thread are in its order (J3), and [`Ring::seal`] makes the
//! tail final: whoever took a position before it is waited for, whoever comes later is refused (J4).

use super::prefetch;
use crate::sync::{Ordering, SharedU64};

/// Slots between the one that is written and the one whose line is asked for.
const AHEAD: u64 = 8;

/// A tail with this bit takes no more events.
const SEALED: u64 = 1 << 63;

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every slot holds an event that is not drained.
    Full,
    /// The ring was sealed.
    Sealed,
}

/// The words that a ring lives in.
pub trait Memory {
    /// The slots, one after the other.
    fn slots(&self) -> &[SharedU64];
    /// The first position that is not drained. Acquire: pairs with `set_head`.
    fn head(&self) -> u64;
    /// Moves it. Release: the slots before it were read.
    fn set_head(&self, pos: u64);
}

/// Slots of `WORDS` words each, the first of which is the ring's own.
#[derive(Debug)]
pub struct Ring<M, const WORDS: usize> {
    memory: M,
    capacity: u64,
    tail: SharedU64,
    /// A position that may be taken lies before it; a copy of `head + capacity` that may be behind.
    limit: SharedU64,
}

impl<M: Memory, const WORDS: usize> Ring<M, WORDS> {
    /// A ring over `memory`, all of whose words are 0.
    ///
    /// # Panics
    /// If there is no power of two of slots.
    #[must_use]
    pub fn new(memory: M) -> Self {
        let capacity = memory.slots().len() / WORDS;
        assert!(capacity.is_power_of_two(), "{capacity} slots");
        let capacity = capacity as u64;
        Self { memory, capacity, tail: SharedU64::new(0), limit: SharedU64::new(capacity) }
    }

    /// Takes an event: `encode` gives the words for its position, the first of which is ignored. The
    /// further words of the slot stay as they are.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    #[inline(always)]
    pub fn push<const N: usize>(
        &self,
        encode: impl FnOnce(u64) -> [u64; N],
    ) -> Result<u64, Refused> {
        let pos = self.take_position()?;
        prefetch::for_writing(&self.first_words::<1>(pos + AHEAD)[0]);
        let payload = encode(pos);
        let slot = self.first_words::<N>(pos);
        for at in 1..N {
            // Relaxed: published by the first word, below.
            slot[at].store(payload[at], Ordering::Relaxed);
        }
        // Release: whoever reads this word reads the payload (J1).
        slot[0].store(pos + 1, Ordering::Release);
        Ok(pos)
    }

    #[inline]
    fn take_position(&self) -> Result<u64, Refused> {
        // Relaxed: a guess that the exchange below decides about.
        let mut pos = self.tail.load(Ordering::Relaxed);
        loop {
            if pos & SEALED != 0 {
                return Err(Refused::Sealed);
            }
            // Acquire: pairs with the Release in `raise_limit`, so the drainer has read the old
            // payload of the slot before it is written over.
            if pos >= self.limit.load(Ordering::Acquire) && pos >= self.raise_limit() {
                return Err(Refused::Full);
            }
            // SeqCst: one order with the drainer's "asleep" flag, see `wakeup` (J5).
            match self.tail.compare_exchange_weak(pos, pos + 1, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Ok(pos),
                Err(now) => pos = now,
            }
        }
    }

    #[cold]
    fn raise_limit(&self) -> u64 {
        let limit = self.memory.head() + self.capacity;
        // AcqRel: hands on what was acquired; the larger of two limits stays.
        self.limit.fetch_max(limit, Ordering::AcqRel).max(limit)
    }

    /// The event at `pos`, if it is accepted. Not for positions whose slots may be used again.
    #[inline]
    pub fn read(&self, pos: u64) -> Option<[u64; WORDS]> {
        self.read_first(pos)
    }

    /// The first words of the event at `pos`, as [`Ring::read`].
    #[inline]
    pub fn read_first<const N: usize>(&self, pos: u64) -> Option<[u64; N]> {
        let slot = self.first_words::<N>(pos);
        // Acquire: pairs with the Release in `push` (J1).
        if slot[0].load(Ordering::Acquire) != pos + 1 {
            return None;
        }
        // Relaxed: ordered by the word just read.
        Some(std::array::from_fn(|word| slot[word].load(Ordering::Relaxed)))
    }

    /// Gives the slots of all events before `pos` back. For the drainer alone.
    pub fn free_until(&self, pos: u64) {
        self.memory.set_head(pos);
    }

    /// The first position that is not drained.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.memory.head()
    }

    /// The position that the next event gets.
    #[must_use]
    pub fn tail(&self) -> u64 {
        // Acquire: what was done before the last event was pushed is seen, its names above all.
        self.tail.load(Ordering::Acquire) & !SEALED
    }

    /// [`Ring::tail`] for a drainer that is about to sleep: whoever pushes unseen by it sees that
    /// it sleeps (J5).
    #[must_use]
    pub fn tail_before_sleep(&self) -> u64 {
        // A read-modify-write, so it is ordered with those of the producers: what comes before it
        // is seen here, and what comes after it acquires what was stored before it.
        self.tail.fetch_add(0, Ordering::AcqRel) & !SEALED
    }

    /// Refuses all later events and returns the final tail (J4).
    pub fn seal(&self) -> u64 {
        // AcqRel: after the last position that was taken, before anything that is refused.
        self.tail.fetch_or(SEALED, Ordering::AcqRel) & !SEALED
    }

    /// Slots.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    #[inline]
    fn first_words<const N: usize>(&self, pos: u64) -> &[SharedU64; N] {
        const { assert!(0 < N && N <= WORDS) };
        let first = (pos & (self.capacity - 1)) as usize * WORDS;
        self.memory.slots()[first..].first_chunk().expect("a slot has that many words")
    }
}

/// What a slot's first word says, in a ring that nobody works on any more.
#[must_use]
pub fn found_in_slot(word: u64, slot: u64, capacity: u64) -> InSlot {
    match word.checked_sub(1) {
        None => InSlot::Nothing,
        Some(pos) if pos % capacity == slot && pos < SEALED => InSlot::Event(pos),
        Some(_) => InSlot::Damage,
    }
}

/// See [`found_in_slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InSlot {
    /// It was never used.
    Nothing,
    /// The event at this position, drained or not.
    Event(u64),
    /// No word that a ring writes.
    Damage,
}

/// Memory of a process, for tests and models.
#[cfg(test)]
pub(super) mod words {
    use super::{Memory, Ordering, SharedU64};

    pub struct Words {
        slots: Vec<SharedU64>,
        head: SharedU64,
    }

    impl Words {
        pub fn new(length: usize) -> Self {
            let slots = (0..length).map(|_| SharedU64::new(0)).collect();
            Self { slots, head: SharedU64::new(0) }
        }
    }

    impl Memory for Words {
        fn slots(&self) -> &[SharedU64] {
            &self.slots
        }

        fn head(&self) -> u64 {
            self.head.load(Ordering::Acquire)
        }

        fn set_head(&self, pos: u64) {
            self.head.store(pos, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::trace::ring::words::Words;

    fn ring(slots: usize) -> Ring<Words, 2> {
        Ring::new(Words::new(slots * 2))
    }

    #[test]
    fn events_come_out_as_they_went_in_lap_after_lap() {
        let ring = ring(4);
        for pos in 0..40 {
            assert_eq!(ring.read(pos), None);
            assert_eq!(ring.push(|at| [0, at * 10]), Ok(pos));
            assert_eq!(ring.read(pos), Some([pos + 1, pos * 10]));
            ring.free_until(pos + 1);
        }
    }

    #[test]
    fn a_full_ring_refuses_until_its_oldest_slot_is_free() {
        let ring = ring(2);
        (0..2).for_each(|_| assert!(ring.push(|_| [0, 1]).is_ok()));
        assert_eq!(ring.push(|_| [0, 1]), Err(Refused::Full));
        ring.free_until(1);
        assert_eq!(ring.push(|_| [0, 1]), Ok(2));
        assert_eq!(ring.push(|_| [0, 1]), Err(Refused::Full));
    }

    #[test]
    fn a_sealed_ring_refuses_and_keeps_what_it_has() {
        let ring = ring(2);
        assert_eq!(ring.push(|_| [0, 7]), Ok(0));
        assert_eq!(ring.seal(), 1);
        assert_eq!(ring.push(|_| [0, 8]), Err(Refused::Sealed));
        assert_eq!((ring.tail(), ring.read(0)), (1, Some([1, 7])));
    }

    #[test]
    fn a_word_tells_an_event_from_nothing_and_from_damage() {
        assert_eq!(found_in_slot(0, 3, 4), InSlot::Nothing);
        assert_eq!(found_in_slot(10, 1, 4), InSlot::Event(9));
        assert_eq!(found_in_slot(11, 1, 4), InSlot::Damage);
        assert_eq!(found_in_slot(u64::MAX, 2, 4), InSlot::Damage);
    }

    #[test]
    fn eight_threads_lose_nothing_and_keep_their_order() {
        const EACH: u64 = 5_000;
        let ring = ring(64);
        let mut seen = vec![0; 8];
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let ring = &ring;
                scope.spawn(move || {
                    for number in 0..EACH {
                        while ring.push(|_| [0, thread << 32 | number]).is_err() {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            for pos in 0..8 * EACH {
                let event = loop {
                    match ring.read(pos) {
                        Some(event) => break event[1],
                        None => std::thread::yield_now(),
                    }
                };
                ring.free_until(pos + 1);
                let (thread, number) = ((event >> 32) as usize, event & u64::from(u32::MAX));
                assert_eq!(number, seen[thread], "order within the thread");
                seen[thread] += 1;
            }
        });
        assert_eq!(seen, vec![EACH; 8]);
    }
}

//! The queue of a journal: bounded, for many producers and one drainer, in words that outlive the
//! process.
//!
//! A slot's first word says whose turn it is (Vyukov's bounded queue). For position `p`, which lies
//! in slot `p % capacity`:
//!
//! | word | state |
//! |---|---|
//! | `p` | free, waits for the event at `p` |
//! | `p + 1` | the event at `p` is accepted |
//! | `p + capacity` | it was drained; free for the next lap |
//!
//! A producer takes a position by moving `tail`, writes the payload, and then stores the word: from
//! that store on the event is accepted (J1). A process that is killed between the two leaves a free
//! slot, which nobody reads. Positions only grow, so those of one thread are in its order (J2), and
//! [`Ring::seal`] makes the tail final: whoever took a position before it is waited for, whoever comes
//! later is refused (J3).

use crate::sync::{AtomicU64, Ordering};
use std::ops::Deref;

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

/// Slots of `WORDS` words each, the first of which is the ring's own.
#[derive(Debug)]
pub struct Ring<M, const WORDS: usize> {
    words: M,
    capacity: u64,
    tail: AtomicU64,
}

impl<M: Deref<Target = [AtomicU64]>, const WORDS: usize> Ring<M, WORDS> {
    /// A ring over `words`, all of its slots free.
    ///
    /// # Panics
    /// If there is no power of two of slots, at least two.
    #[must_use]
    pub fn new(words: M) -> Self {
        let capacity = words.len() / WORDS;
        assert!(capacity >= 2 && capacity.is_power_of_two(), "{capacity} slots");
        let ring = Self { words, capacity: capacity as u64, tail: AtomicU64::new(0) };
        // Relaxed: nobody else has the ring yet.
        (0..ring.capacity).for_each(|pos| ring.turn(pos).store(pos, Ordering::Relaxed));
        ring
    }

    /// Takes an event: `encode` gives the words for its position, the first of which is ignored.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    #[inline]
    pub fn push(&self, encode: impl FnOnce(u64) -> [u64; WORDS]) -> Result<u64, Refused> {
        let pos = self.take_position()?;
        let payload = encode(pos);
        let slot = &self.slot(pos)[1..];
        for (word, value) in slot.iter().zip(&payload[1..]) {
            // Relaxed: published by the turn below.
            word.store(*value, Ordering::Relaxed);
        }
        // Release: whoever reads this turn reads the payload (J1).
        self.turn(pos).store(pos + 1, Ordering::Release);
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
            // Acquire: pairs with the Release in `free`, so the drainer has read the old payload
            // before it is written over.
            let turn = self.turn(pos).load(Ordering::Acquire);
            let now = if turn == pos {
                // SeqCst: one order with the drainer's "asleep" flag, see `doorbell` (J4).
                let swap = self.tail.compare_exchange_weak(
                    pos,
                    pos + 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                match swap {
                    Ok(_) => return Ok(pos),
                    Err(now) => now,
                }
            } else {
                self.tail.load(Ordering::Relaxed)
            };
            if now == pos && turn < pos {
                return Err(Refused::Full);
            }
            pos = now;
        }
    }

    /// The event at `pos`, if it is accepted and not drained.
    #[inline]
    pub fn read(&self, pos: u64) -> Option<[u64; WORDS]> {
        // Acquire: pairs with the Release in `push` (J1).
        if self.turn(pos).load(Ordering::Acquire) != pos + 1 {
            return None;
        }
        let slot = self.slot(pos);
        Some(std::array::from_fn(|word| match word {
            0 => pos + 1,
            // Relaxed: ordered by the turn just read.
            word => slot[word].load(Ordering::Relaxed),
        }))
    }

    /// Gives the slot of a drained event back. For the drainer alone.
    #[inline]
    pub fn free(&self, pos: u64) {
        // Release: pairs with the Acquire in `take_position`.
        self.turn(pos).store(pos + self.capacity, Ordering::Release);
    }

    /// The position that the next event gets.
    #[must_use]
    pub fn tail(&self) -> u64 {
        // SeqCst: see `take_position`.
        self.tail.load(Ordering::SeqCst) & !SEALED
    }

    /// Refuses all later events and returns the final tail (J3).
    pub fn seal(&self) -> u64 {
        // AcqRel: after the last position that was taken, before anything that is refused.
        self.tail.fetch_or(SEALED, Ordering::AcqRel) & !SEALED
    }

    /// Slots.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn slot(&self, pos: u64) -> &[AtomicU64] {
        let first = (pos & (self.capacity - 1)) as usize * WORDS;
        &self.words[first..first + WORDS]
    }

    #[inline]
    fn turn(&self, pos: u64) -> &AtomicU64 {
        &self.slot(pos)[0]
    }
}

/// What a slot's first word says about the slot, in a ring that nobody works on any more.
#[must_use]
pub fn position_of(turn: u64, slot: u64, capacity: u64) -> Turn {
    let lap = turn.wrapping_sub(slot) % capacity;
    match lap {
        0 => Turn::Free(turn),
        1 => Turn::Accepted(turn.wrapping_sub(1)),
        _ => Turn::Damaged,
    }
}

/// See [`position_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Free, for this position.
    Free(u64),
    /// Holds the event at this position.
    Accepted(u64),
    /// No word that a ring writes.
    Damaged,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ring(slots: usize) -> Ring<Vec<AtomicU64>, 2> {
        Ring::new((0..slots * 2).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn events_come_out_as_they_went_in_lap_after_lap() {
        let ring = ring(4);
        for pos in 0..40 {
            assert_eq!(ring.read(pos), None);
            assert_eq!(ring.push(|at| [0, at * 10]), Ok(pos));
            assert_eq!(ring.read(pos), Some([pos + 1, pos * 10]));
            ring.free(pos);
        }
    }

    #[test]
    fn a_full_ring_refuses_until_its_oldest_slot_is_free() {
        let ring = ring(2);
        (0..2).for_each(|_| assert!(ring.push(|_| [0, 1]).is_ok()));
        assert_eq!(ring.push(|_| [0, 1]), Err(Refused::Full));
        ring.free(1);
        assert_eq!(ring.push(|_| [0, 1]), Err(Refused::Full), "the oldest is not free");
        ring.free(0);
        assert_eq!(ring.push(|_| [0, 1]), Ok(2));
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
    fn a_turn_tells_free_from_accepted_from_damaged() {
        assert_eq!(position_of(8, 0, 4), Turn::Free(8));
        assert_eq!(position_of(10, 1, 4), Turn::Accepted(9));
        assert_eq!(position_of(11, 1, 4), Turn::Damaged);
        assert_eq!(position_of(0, 3, 4), Turn::Accepted(u64::MAX));
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
                ring.free(pos);
                let (thread, number) = ((event >> 32) as usize, event & u64::from(u32::MAX));
                assert_eq!(number, seen[thread], "order within the thread");
                seen[thread] += 1;
            }
        });
        assert_eq!(seen, vec![EACH; 8]);
    }
}

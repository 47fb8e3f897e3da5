//! How much a cache may hold, how much it holds, and who evicts an excess.
//!
//! Entries and bytes follow the table's answers alone: a put over nothing adds one, a removal takes
//! one away (C1). An eviction is *reserved* before anything is taken: an excess is given away by one
//! compare-and-swap, so two putters never evict for the same excess (C2).

use crate::sync::{Ordering, Word};
use std::num::{NonZeroU64, NonZeroUsize};

/// How much a cache may hold; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The most entries.
    pub entries: Option<NonZeroUsize>,
    /// The most weight, in bytes.
    pub bytes: Option<NonZeroU64>,
}

/// What a cache holds, minus what is reserved for eviction.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Two's complement: an entry may be taken before its put has counted it.
    entries: Word,
    weight: Word,
    /// How many entries came in, ever.
    came: Word,
}

/// The duty to evict one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    /// Bytes that are counted as gone already, in addition to the one entry.
    weight: u64,
}

impl Usage {
    // Relaxed where nothing else is said: nothing is published through these numbers. A number that
    // another thread is about to change is that thread's duty to look at again, after its own change.

    pub(super) fn entries(&self) -> usize {
        let entries = self.entries.load(Ordering::Relaxed) as i64;
        usize::try_from(entries).unwrap_or(0)
    }

    pub(super) fn weight(&self) -> u64 {
        let weight = self.weight.load(Ordering::Relaxed) as i64;
        u64::try_from(weight).unwrap_or(0)
    }

    /// An entry came in; it is in the table.
    pub(super) fn add(&self, weight: u64) {
        // Release: whoever sees this finds the entry in the table.
        self.came.fetch_add(1, Ordering::Release);
        self.count(weight);
    }

    fn count(&self, weight: u64) {
        // Acquire and release, for `give_back`: of two threads here, the second sees what the first
        // has done before.
        self.entries.fetch_add(1, Ordering::AcqRel);
        self.reweigh(0, weight);
    }

    /// How many entries came in, ever; all of them are, or were, in the table.
    pub(super) fn came(&self) -> u64 {
        // Acquire: pairs with `add`.
        self.came.load(Ordering::Acquire)
    }

    /// An entry replaced another.
    pub(super) fn reweigh(&self, old: u64, new: u64) {
        if old != new {
            self.weight.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
        }
    }

    /// An entry went that nobody had reserved.
    pub(super) fn subtract(&self, weight: u64) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.reweigh(weight, 0);
    }

    /// Gives one entry of an excess to the caller, who then evicts one.
    pub(super) fn reserve_entry(&self, most: Option<NonZeroUsize>) -> Option<Reserved> {
        let most = i64::try_from(most?.get()).ok()?;
        let reserve = |entries: u64| (entries as i64 > most).then(|| entries.wrapping_sub(1));
        let reserved = self.entries.update(Ordering::Relaxed, Ordering::Relaxed, reserve);
        reserved.ok().map(|_| Reserved { weight: 0 })
    }

    /// Whether there are too many bytes.
    pub(super) fn is_too_heavy(&self, most: Option<NonZeroU64>) -> bool {
        most.is_some_and(|most| self.weight() > most.get())
    }

    /// Gives `weight` bytes of an excess to the caller, who then evicts one entry.
    pub(super) fn reserve_weight(&self, most: Option<NonZeroU64>, weight: u64) -> Option<Reserved> {
        let most = i64::try_from(most?.get()).ok()?;
        let reserve = |held: u64| (held as i64 > most).then(|| held.wrapping_sub(weight));
        let reserved = self.weight.update(Ordering::Relaxed, Ordering::Relaxed, reserve);
        reserved.ok()?;
        self.entries.fetch_sub(1, Ordering::Relaxed);
        Some(Reserved { weight })
    }

    /// What is about to be evicted has another weight than what was reserved. Counted before it is
    /// taken, or a putter that comes between would find too much and evict for nothing (C3).
    pub(super) fn expect(&self, reserved: &mut Reserved, weight: u64) {
        self.reweigh(weight, reserved.weight);
        reserved.weight = weight;
    }

    /// Nothing was found to evict. A put that was counted before this may have left its excess to
    /// the caller's reservation: whoever gives back looks at `came` again (C4).
    pub(super) fn give_back(&self, reserved: Reserved) {
        self.count(reserved.weight);
    }

    /// Whether everything is within `capacity`.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn fits(&self, capacity: Capacity) -> bool {
        capacity.entries.is_none_or(|most| self.entries() <= most.get())
            && !self.is_too_heavy(capacity.bytes)
    }
}

//! A set of hashes that can be asked to have ready what a later question about one of them reads.
//!
//! Slots in a row, of which at least half are empty: a hash is in the first slot that was free from
//! its own on. What is taken out leaves a mark, so that what came after it is found.

const EMPTY: u64 = 0;
const GONE: u64 = 1;
const FEWEST: usize = 16;
/// The golden ratio's digits: hashes that follow each other lie apart.
const MIXED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes, two pairs of which are taken for each other.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// A power of two of them, or none.
    slots: Vec<u64>,
    /// Slots that aren't empty.
    used: usize,
}

impl Set {
    /// What stands in the slot of a hash.
    #[inline]
    fn content(hash: u64) -> u64 {
        if hash <= GONE { hash + 2 } else { hash }
    }

    /// Makes room for `count` hashes, those that were taken out included, if there is less.
    pub(super) fn reserve(&mut self, count: usize) {
        let slots = (2 * count).next_power_of_two().max(FEWEST);
        if slots > self.slots.len() {
            let before = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
            self.used = 0;
            before.into_iter().filter(|content| *content > GONE).for_each(|hash| self.insert(hash));
        }
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if 2 * (self.used + 1) > self.slots.len() {
            self.reserve(2 * (self.used + 1));
        }
        let content = Self::content(hash);
        let mut slot = self.slot(content);
        while self.slots[slot] != EMPTY {
            if self.slots[slot] == content {
                return;
            }
            slot = self.next(slot);
        }
        self.slots[slot] = content;
        self.used += 1;
    }

    /// Takes a hash out; whether it was there.
    #[inline]
    pub(super) fn remove(&mut self, hash: u64) -> bool {
        if self.slots.is_empty() {
            return false;
        }
        let content = Self::content(hash);
        let mut slot = self.slot(content);
        while self.slots[slot] != EMPTY {
            if self.slots[slot] == content {
                self.slots[slot] = GONE;
                return true;
            }
            slot = self.next(slot);
        }
        false
    }

    /// Takes all out, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.slots.fill(EMPTY);
        self.used = 0;
    }

    /// Has the slot of a hash ready for a question that comes some hundred cycles later.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn fetch(&self, hash: u64) {
        #[cfg(target_arch = "x86_64")]
        if let Some(slot) = self.slots.get(self.slot(Self::content(hash))) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: every such processor can, and nothing is read or written that a program sees.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = hash;
    }

    /// The slot of what stands for a hash, by all of its digits; 0 where there is none.
    #[inline]
    fn slot(&self, content: u64) -> usize {
        let bits = self.slots.len().trailing_zeros();
        (content.wrapping_mul(MIXED) >> (u64::BITS - bits)) as usize
    }

    #[inline]
    fn next(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn len(&self) -> usize {
        self.slots.iter().filter(|content| **content > GONE).count()
    }

    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn capacity(&self) -> usize {
        self.slots.len() / 2
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Hashes that meet in a few slots, those that stand for nothing among them.
        #[test]
        fn it_is_what_a_set_is(calls in prop::collection::vec((any::<bool>(), 2..40_u64, 0..3_u64), 0..400)) {
            let (mut set, mut plain) = (Set::default(), HashSet::new());
            for (is_insert, low, high) in calls {
                let hash = low | high << 40;
                set.fetch(hash);
                if is_insert {
                    set.insert(hash);
                    plain.insert(hash);
                } else {
                    prop_assert_eq!(set.remove(hash), plain.remove(&hash));
                }
                prop_assert_eq!(set.len(), plain.len());
                prop_assert!(2 * set.used <= set.slots.len());
            }
            let capacity = set.capacity();
            set.clear();
            prop_assert_eq!((set.len(), set.capacity()), (0, capacity));
            prop_assert!(plain.iter().all(|hash| !set.remove(*hash)));
        }
    }

    #[test]
    fn a_hash_like_a_mark_is_a_hash() {
        let mut set = Set::default();
        for hash in [EMPTY, GONE] {
            assert!(!set.remove(hash));
            set.insert(hash);
            assert!(set.remove(hash) && !set.remove(hash));
        }
    }
}

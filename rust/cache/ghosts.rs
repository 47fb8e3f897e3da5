//! Which keys were evicted lately, by their hashes: a key computed again says that the cache is too
//! small for its working set.
//!
//! Bounded: at least the last [`Ghosts::LEAST`] evictions are remembered and at most twice as many,
//! in about 2.5 MiB when full. They lie in two sets: the younger one is filled, then it becomes the
//! older one, and what that held is forgotten at once. So an eviction costs one insertion; a queue
//! next to a map cost 100 ns more. Two keys of one hash are taken for each other here: at worst one
//! is counted too many.

use super::as_it_is::AsItIs;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

type Hashes = HashSet<u64, BuildHasherDefault<AsItIs>>;

/// Hashes of evicted keys, the oldest of which are forgotten.
#[derive(Debug, Default)]
pub struct Ghosts {
    younger: Hashes,
    older: Hashes,
}

impl Ghosts {
    /// Evictions that are remembered, if not more.
    pub const LEAST: usize = 1 << 16;

    /// Remembers an eviction.
    #[inline]
    pub fn add(&mut self, hash: u64) {
        if self.younger.len() == Self::LEAST {
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.clear();
        }
        self.younger.insert(hash);
    }

    /// Whether a key of this hash was evicted lately; if so, it is forgotten.
    #[inline]
    pub fn take(&mut self, hash: u64) -> bool {
        self.younger.remove(&hash) | self.older.remove(&hash)
    }

    /// Forgets everything: after a clear, nothing is computed again because of an eviction.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn add_others(ghosts: &mut Ghosts, count: usize) {
        (0..count as u64).for_each(|hash| ghosts.add(1000 + hash));
    }

    #[test]
    fn the_last_evictions_are_remembered_and_far_older_ones_forgotten() {
        let mut ghosts = Ghosts::default();
        let mut is_remembered = |before: usize, after: usize| {
            ghosts.clear();
            add_others(&mut ghosts, before);
            ghosts.add(7);
            (0..after as u64).for_each(|hash| ghosts.add(1_000_000 + hash));
            assert!(ghosts.younger.len() + ghosts.older.len() <= 2 * Ghosts::LEAST);
            ghosts.take(7)
        };
        for before in [0, 1, Ghosts::LEAST / 2, Ghosts::LEAST - 1] {
            assert!(is_remembered(before, Ghosts::LEAST - 1), "after {before} others");
            assert!(!is_remembered(before, 2 * Ghosts::LEAST), "after {before} others");
        }
    }

    #[test]
    fn a_hash_is_remembered_as_long_as_its_last_eviction() {
        let mut ghosts = Ghosts::default();
        ghosts.add(7);
        add_others(&mut ghosts, Ghosts::LEAST);
        ghosts.add(7);
        add_others(&mut ghosts, Ghosts::LEAST);
        assert!(ghosts.take(7));
    }

    #[test]
    fn one_eviction_is_taken_once() {
        let mut ghosts = Ghosts::default();
        ghosts.add(7);
        add_others(&mut ghosts, Ghosts::LEAST);
        ghosts.add(7);
        assert!(ghosts.take(7) && !ghosts.take(7));
        ghosts.add(7);
        ghosts.clear();
        assert!(!ghosts.take(7));
    }
}

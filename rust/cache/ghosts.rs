//! Which keys were evicted lately, by their hashes: a key computed again says that the cache is too
//! small for its working set.
//!
//! Bounded: at least the last [`Ghosts::LEAST`] evictions are remembered and at most twice as many,
//! in 2 MiB when full. They lie in two sets: the younger one is filled, then it becomes the
//! older one, and what that held is forgotten at once. So an eviction costs one insertion; a queue
//! next to a map cost 100 ns more. A set is made anew only while it is small, so no eviction waits for
//! that. Two keys of one hash are taken for each other here: at worst one is counted too many.
//!
//! Full sets are larger than the caches of a processor near by, and a miss that looked into both and an
//! eviction that wrote into one waited 120 ns for memory. So what a look reads is fetched while the
//! value is computed ([`Ghosts::will_take`]), and an eviction goes into its set a few evictions later.

mod set;

use set::Set;
use smallvec::SmallVec;

/// Hashes of evicted keys, the oldest of which are forgotten.
#[derive(Debug, Default)]
pub struct Ghosts {
    younger: Set,
    /// Evictions since the younger set was empty, those forgotten meanwhile included: what is taken out
    /// of a set leaves a mark that fills it too.
    added: usize,
    older: Set,
    /// Of the younger set, but not in there yet.
    latest: SmallVec<[u64; Self::AT_ONCE]>,
}

impl Ghosts {
    /// Evictions that are remembered, if not more.
    pub const LEAST: usize = 1 << 16;

    /// A set of this size gets all the room that it will need.
    const SMALL: usize = 3_500;

    /// Evictions that go into the set together.
    const AT_ONCE: usize = 8;

    /// Remembers an eviction.
    #[inline]
    pub fn add(&mut self, hash: u64) {
        if self.latest.len() == Self::AT_ONCE {
            self.settle();
        }
        if self.added == Self::LEAST {
            self.settle();
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.clear();
            self.added = 0;
        }
        if self.added == Self::SMALL {
            self.younger.reserve(Self::LEAST);
        }
        self.younger.fetch(hash);
        self.latest.push(hash);
        self.added += 1;
    }

    /// Puts the latest evictions into their set.
    fn settle(&mut self) {
        for hash in self.latest.drain(..) {
            self.younger.insert(hash);
        }
    }

    /// Says that [`Self::take`] will ask about this hash in a while.
    #[inline]
    pub fn will_take(&self, hash: u64) {
        self.younger.fetch(hash);
        self.older.fetch(hash);
    }

    /// Whether a key of this hash was evicted lately; if so, it is forgotten.
    #[inline]
    pub fn take(&mut self, hash: u64) -> bool {
        let is_latest = self.latest.contains(&hash);
        if is_latest {
            self.latest.retain(|latest| *latest != hash);
        }
        is_latest | self.younger.remove(hash) | self.older.remove(hash)
    }

    /// Forgets everything: after a clear, nothing is computed again because of an eviction.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::collections::HashSet;

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

    /// A set that is made anew has more room than before.
    #[test]
    fn no_eviction_waits_for_a_large_set_to_be_made_anew() {
        let mut ghosts = Ghosts::default();
        let mut largest = 0;
        for number in 0..5 * Ghosts::LEAST as u64 {
            let (hash, room) =
                (number.wrapping_mul(0x9E37_79B9_7F4A_7C15), ghosts.younger.capacity());
            ghosts.add(hash);
            if ghosts.added > 1 && ghosts.younger.capacity() > room {
                largest = largest.max(ghosts.added);
            }
            if number % 3 > 0 {
                assert!(ghosts.take(hash));
            }
        }
        assert_eq!(largest, Ghosts::SMALL + 1);
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

    /// However often the sets change places, and whatever is taken out in between.
    #[test]
    fn it_is_what_two_plain_sets_are() {
        let mixed = |number: usize| (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (mut ghosts, mut sets, mut added) =
            (Ghosts::default(), <[HashSet<u64>; 2]>::default(), 0);
        for number in 0..3 * Ghosts::LEAST + 5_000 {
            // Now one that was just evicted, now an older one, now one that never was.
            let asked = mixed(number - number.min([1, 7, 20, 3_600, 70_000, 150_000][number % 6]));
            let expected = sets.iter_mut().fold(false, |found, set| set.remove(&asked) | found);
            assert_eq!(ghosts.take(asked), expected, "at {number}");
            assert!(!ghosts.take(!asked));
            if added == Ghosts::LEAST {
                sets.swap(0, 1);
                sets[0].clear();
                added = 0;
            }
            sets[0].insert(mixed(number));
            ghosts.add(mixed(number));
            added += 1;
        }
    }
}

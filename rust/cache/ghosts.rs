//! Which keys were evicted lately, by their hashes: a key computed again says that the cache is too
//! small for its working set.
//!
//! Bounded: of the last [`Ghosts::MOST`] evictions, about 4 MiB when full. Two keys of one hash are
//! taken for each other here, at worst a count too many.

use super::as_it_is::AsItIs;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

/// Hashes of evicted keys, the oldest of which are forgotten.
#[derive(Debug, Default)]
pub struct Ghosts {
    /// Evictions so far.
    evictions: u64,
    /// The last eviction of each hash.
    last: HashMap<u64, u64, BuildHasherDefault<AsItIs>>,
    /// Hash and number of each eviction, the oldest first.
    order: VecDeque<(u64, u64)>,
}

impl Ghosts {
    /// Evictions that are remembered.
    pub const MOST: usize = 1 << 16;

    /// Remembers an eviction.
    pub fn add(&mut self, hash: u64) {
        if self.order.len() == Self::MOST
            && let Some((oldest, number)) = self.order.pop_front()
            && self.last.get(&oldest) == Some(&number)
        {
            self.last.remove(&oldest);
        }
        self.evictions += 1;
        self.last.insert(hash, self.evictions);
        self.order.push_back((hash, self.evictions));
    }

    /// Whether a key of this hash was evicted lately; if so, it is forgotten.
    pub fn take(&mut self, hash: u64) -> bool {
        self.last.remove(&hash).is_some()
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
    fn the_last_evictions_are_remembered_and_older_ones_forgotten() {
        let mut ghosts = Ghosts::default();
        ghosts.add(7);
        add_others(&mut ghosts, Ghosts::MOST);
        assert!(!ghosts.take(7) && ghosts.take(1000));
        assert_eq!(ghosts.order.len(), Ghosts::MOST);
        assert!(ghosts.last.len() < Ghosts::MOST);
    }

    #[test]
    fn a_hash_is_remembered_as_long_as_its_last_eviction() {
        let mut ghosts = Ghosts::default();
        ghosts.add(7);
        add_others(&mut ghosts, Ghosts::MOST - 1);
        ghosts.add(7);
        add_others(&mut ghosts, 10);
        assert!(ghosts.take(7));
    }

    #[test]
    fn one_eviction_is_taken_once() {
        let mut ghosts = Ghosts::default();
        ghosts.add(7);
        assert!(ghosts.take(7) && !ghosts.take(7));
        ghosts.add(7);
        ghosts.clear();
        assert!(!ghosts.take(7));
    }
}

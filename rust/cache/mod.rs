//! Which values are kept: an exact least-recently-used cache over keys that only their owner can
//! compare.
//!
//! A key is given as its hash and a function that compares it with a stored one. That function
//! may answer [`Match::Unknown`]: the two can be compared only by code that must not run while the
//! cache holds anything (a Python `__eq__`). Then the call changes nothing and returns
//! [`Undecided`] with the stored key; the caller compares outside, remembers the verdict under the
//! entry's id, and calls again. An entry's key never changes and an id is never used twice (I2), so
//! a verdict stays true and the calls come to an end.
//!
//! Whatever leaves the cache is handed to the caller, who drops it after the lock is free (I3).

pub mod flight;
pub mod ghosts;
mod lru;

use crate::sync::{Mutex, lock};
use lru::Lru;
use std::num::{NonZeroU64, NonZeroUsize};

/// What comparing a key with a stored one gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Equal.
    Yes,
    /// Not equal.
    No,
    /// Only foreign code can say.
    Unknown,
}

/// Names one entry for as long as the cache lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

/// A stored key that has to be compared outside before the call can be made again.
#[derive(Debug)]
pub struct Undecided<K> {
    /// The entry that holds it.
    pub id: EntryId,
    /// The key itself.
    pub key: K,
}

/// What an entry held, or was not stored; the caller drops it.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<K, V> {
    /// The hash of the key.
    pub hash: u64,
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
}

/// How much a cache may hold; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The most entries.
    pub entries: Option<NonZeroUsize>,
    /// The most weight, in bytes.
    pub bytes: Option<NonZeroU64>,
}

/// What came of a put.
#[derive(Debug, PartialEq, Eq)]
pub struct Put<K, V> {
    /// Whether the value was stored; not if it alone is more than the cache may hold.
    pub stored: bool,
    /// Entries evicted for it.
    pub evicted: usize,
    /// What had to go: an old value or the one that is too large, then the evicted entries.
    pub removed: Vec<Removed<K, V>>,
}

/// An exact LRU cache for any number of threads.
#[derive(Debug)]
pub struct Cache<K, V> {
    capacity: Capacity,
    lru: Mutex<Lru<K, V>>,
}

impl<K: Clone, V> Cache<K, V> {
    /// A cache that holds at most `capacity`.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self { capacity, lru: Mutex::new(Lru::new()) }
    }

    /// How much the cache may hold.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Reads the entry of a key with `read` and makes it the most recent.
    ///
    /// # Errors
    /// [`Undecided`]: compare outside and call again.
    #[inline]
    pub fn get<R>(
        &self,
        hash: u64,
        same: impl FnMut(EntryId, &K) -> Match,
        read: impl FnOnce(&K, &V) -> R,
    ) -> Result<Option<R>, Undecided<K>> {
        let mut lru = lock(&self.lru);
        let Some(slot) = lru.find(hash, same)? else {
            return Ok(None);
        };
        lru.touch(slot);
        let (key, value) = lru.entry(slot);
        Ok(Some(read(key, value)))
    }

    /// Reads the entry of a key and leaves the order as it is.
    ///
    /// # Errors
    /// [`Undecided`]: compare outside and call again.
    pub fn peek<R>(
        &self,
        hash: u64,
        same: impl FnMut(EntryId, &K) -> Match,
        read: impl FnOnce(&K, &V) -> R,
    ) -> Result<Option<R>, Undecided<K>> {
        let lru = lock(&self.lru);
        let found = lru.find(hash, same)?;
        Ok(found.map(|slot| {
            let (key, value) = lru.entry(slot);
            read(key, value)
        }))
    }

    /// Stores a value of `weight` bytes as the most recent one; `entry` gives key and value and is
    /// called once, on success. Least recent entries go while there is more than the capacity.
    ///
    /// `admit` is asked with nothing else between it and the storing; if it refuses, the value is
    /// handed back and nothing changes.
    ///
    /// # Errors
    /// [`Undecided`]: compare outside and call again.
    pub fn put(
        &self,
        hash: u64,
        weight: u64,
        same: impl FnMut(EntryId, &K) -> Match,
        admit: impl FnOnce() -> bool,
        entry: impl FnOnce() -> (K, V),
    ) -> Result<Put<K, V>, Undecided<K>> {
        let mut lru = lock(&self.lru);
        let found = lru.find(hash, same)?;
        let (key, value) = entry();
        let mut removed = Vec::new();
        if !admit() {
            removed.push(Removed { hash, key, value });
            return Ok(Put { stored: false, evicted: 0, removed });
        }
        if self.capacity.bytes.is_some_and(|most| weight > most.get()) {
            // An old value of the key would be served in its place, so it goes too.
            removed.extend(found.and_then(|slot| lru.remove(slot)));
            removed.push(Removed { hash, key, value });
            return Ok(Put { stored: false, evicted: 0, removed });
        }
        match found {
            // The new key goes with the old value: an equal key stays, as in a dict.
            Some(slot) => {
                lru.touch(slot);
                removed.push(Removed { hash, key, value: lru.replace(slot, value, weight) });
            }
            None => lru.insert(hash, key, value, weight),
        }
        let before = removed.len();
        while self.is_over(&lru) {
            removed.extend(lru.pop_oldest());
        }
        Ok(Put { stored: true, evicted: removed.len() - before, removed })
    }

    fn is_over(&self, lru: &Lru<K, V>) -> bool {
        let Capacity { entries, bytes } = self.capacity;
        entries.is_some_and(|most| lru.len() > most.get())
            || bytes.is_some_and(|most| lru.weight() > most.get())
    }

    /// Removes the entries that `matches` accepts and returns them; `commit` runs before the first is
    /// gone, with nothing between.
    ///
    /// # Errors
    /// [`Undecided`]: nothing was removed; compare outside and call again.
    pub fn remove_matching(
        &self,
        mut matches: impl FnMut(EntryId, &K) -> Match,
        commit: impl FnOnce(),
    ) -> Result<Vec<Removed<K, V>>, Undecided<K>> {
        let mut lru = lock(&self.lru);
        let slots = lru.find_all(&mut matches)?;
        commit();
        Ok(slots.into_iter().filter_map(|slot| lru.remove(slot)).collect())
    }

    /// Removes every entry and returns them.
    pub fn clear(&self) -> Vec<Removed<K, V>> {
        lock(&self.lru).drain()
    }

    /// Calls `visit` with every key, value and weight until it fails. The cache is held meanwhile.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn try_for_each<E>(
        &self,
        visit: impl FnMut(&K, &V, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        lock(&self.lru).try_for_each(visit)
    }

    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.lru).len()
    }

    /// Weight of all entries, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        lock(&self.lru).weight()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;

//! The table of threads that take turns.
//!
//! Nothing here is locked or atomic: whoever calls has the turn until the call returns, and what a
//! call is given to ask or to visit with never calls back. What was taken out is freed with the last
//! guard, since its finder may still look at it.

use super::{Chain, Change, Changed, without};
use crate::cache::entry::Entry;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Bucket;
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;

/// The longest list of removed chains whose memory is kept.
const KEPT: usize = 64;

/// A chain with its hash.
type Hashed<K, V> = (u64, Chain<Entry<K, V>>);

#[derive(Debug)]
pub(in crate::cache) struct Table<K, V> {
    chains: UnsafeCell<HashTable<Hashed<K, V>>>,
    guards: Cell<usize>,
    /// What was taken out while there was a guard.
    removed: UnsafeCell<Vec<Chain<Entry<K, V>>>>,
}

// SAFETY: `cfg(take_turns)` says that one thread at a time is in here, from the making of a guard to
// its end; what is stored may itself go from thread to thread.
#[allow(unsafe_code)]
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for Table<K, V> {}

/// Keeps what is found from being freed.
pub(in crate::cache) struct Guard<'t, K, V>(&'t Table<K, V>);

impl<K, V> Drop for Guard<'_, K, V> {
    #[inline]
    fn drop(&mut self) {
        let guards = self.0.guards.get() - 1;
        self.0.guards.set(guards);
        if guards == 0 {
            self.0.free();
        }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            chains: UnsafeCell::new(HashTable::new()),
            guards: Cell::new(0),
            removed: UnsafeCell::new(Vec::new()),
        }
    }
}

impl<K, V> Table<K, V> {
    #[inline]
    pub(in crate::cache) fn guard(&self) -> Guard<'_, K, V> {
        self.guards.set(self.guards.get() + 1);
        Guard(self)
    }

    #[inline]
    #[allow(unsafe_code)]
    fn chains(&self) -> &HashTable<Hashed<K, V>> {
        // SAFETY: this thread has the turn, and `change` and `remove`, which alone write, neither run
        // now nor are called before the caller is done with what is borrowed.
        unsafe { &*self.chains.get() }
    }

    #[allow(unsafe_code, clippy::mut_from_ref)]
    fn chains_mut(&self) -> &mut HashTable<Hashed<K, V>> {
        // SAFETY: as in `chains`; nothing that is borrowed from the table is used across a change.
        unsafe { &mut *self.chains.get() }
    }

    #[inline]
    #[allow(unsafe_code)]
    fn free(&self) {
        // SAFETY: this thread has the turn, and the reference ends before anything is dropped.
        let removed = unsafe { &mut *self.removed.get() };
        if !removed.is_empty() {
            self.free_all(std::mem::take(removed));
        }
    }

    /// Frees what was taken out, and keeps the list's memory for the next time.
    #[allow(unsafe_code)]
    fn free_all(&self, mut chains: Vec<Chain<Entry<K, V>>>) {
        chains.clear();
        if chains.capacity() <= KEPT {
            // SAFETY: as in `free`.
            unsafe { *self.removed.get() = chains };
        }
    }

    #[allow(unsafe_code)]
    fn keep(&self, chain: Chain<Entry<K, V>>) {
        // SAFETY: as in `free`.
        unsafe { &mut *self.removed.get() }.push(chain);
    }

    /// Asks `pick` about each entry of a hash until it picks one.
    #[inline]
    pub(in crate::cache) fn find<'g, R>(
        &'g self,
        hash: u64,
        _: &'g Guard<'_, K, V>,
        pick: impl FnMut(&'g Entry<K, V>) -> Option<R>,
    ) -> Option<R> {
        let (_, chain) = self.chains().find(hash, |(other, _)| *other == hash)?;
        chain.as_slice().iter().map(Arc::as_ref).find_map(pick)
    }

    /// Changes the chain of a hash as `decide` says.
    pub(in crate::cache) fn change(
        &self,
        hash: u64,
        _: &Guard<'_, K, V>,
        mut decide: impl FnMut(&[Arc<Entry<K, V>>]) -> Change<Entry<K, V>>,
    ) -> Changed<Entry<K, V>> {
        match self.chains_mut().entry(hash, |(other, _)| *other == hash, |(other, _)| *other) {
            Bucket::Vacant(bucket) => match decide(&[]) {
                Change::No => Changed::No,
                Change::Insert { entry, .. } => {
                    bucket.insert((hash, Chain::One(entry)));
                    Changed::Inserted
                }
            },
            Bucket::Occupied(mut bucket) => {
                let (_, chain) = bucket.get_mut();
                match decide(chain.as_slice()) {
                    Change::No => Changed::No,
                    Change::Insert { entry, over } => {
                        let entries = without(chain.as_slice(), over.as_ref()).chain([entry]);
                        let next = Chain::of(entries.collect()).expect("one entry at least");
                        self.keep(std::mem::replace(chain, next));
                        over.map_or(Changed::Inserted, Changed::Replaced)
                    }
                }
            }
        }
    }

    /// Takes out this very entry; false if it isn't in the table.
    pub(in crate::cache) fn remove(&self, entry: &Entry<K, V>, _: &Guard<'_, K, V>) -> bool {
        let hash = entry.hash;
        let Ok(mut bucket) = self.chains_mut().find_entry(hash, |(other, _)| *other == hash) else {
            return false;
        };
        let (_, chain) = bucket.get_mut();
        let is_it = |other: &&Arc<Entry<K, V>>| std::ptr::eq(Arc::as_ptr(other), entry);
        let Some(gone) = chain.as_slice().iter().find(is_it) else { return false };
        match Chain::of(without(chain.as_slice(), Some(gone)).collect()) {
            None => self.keep(bucket.remove().0.1),
            Some(rest) => self.keep(std::mem::replace(chain, rest)),
        }
        true
    }

    /// Calls `visit` with every entry.
    pub(in crate::cache) fn for_each<'g>(
        &'g self,
        _: &'g Guard<'_, K, V>,
        visit: impl FnMut(&'g Entry<K, V>),
    ) {
        let entries = self.chains().iter().flat_map(|(_, chain)| chain.as_slice());
        entries.map(Arc::as_ref).for_each(visit);
    }
}

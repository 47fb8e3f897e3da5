//! The table of threads that take turns, which also links its entries in the order of their use.
//!
//! Nothing here is locked or atomic: whoever calls has the turn until the call returns, and what a
//! call is given to ask or to visit with never calls back. What was taken out is freed with the last
//! guard, since its finder may still look at it.

use super::buckets::Buckets;
use super::by_use::ByUse;
use super::{Change, Place};
use crate::cache::entry::Entry;
use std::cell::Cell;
use std::ptr::null;

/// An entry that is not in the table, or not in its hands any longer.
pub(in crate::cache) type Owned<E> = Box<E>;

/// An entry that never was in the table.
#[allow(clippy::boxed_local)]
pub(in crate::cache) fn unwrapped<E>(entry: Owned<E>) -> E {
    *entry
}

/// What was done to the entries of a hash.
pub(in crate::cache) type Changed<'g, K, V> = super::Changed<'g, Entry<K, V>>;

/// Where an entry stands: in its bucket, and in the order of use.
#[derive(Debug)]
pub(in crate::cache) struct Links<K, V> {
    pub(super) newer: Cell<Place<K, V>>,
    pub(super) older: Cell<Place<K, V>>,
    /// The next in its bucket, or of what was taken out.
    pub(super) next: Cell<Place<K, V>>,
}

impl<K, V> Default for Links<K, V> {
    fn default() -> Self {
        let [newer, older, next] = [const { Cell::new(null()) }; 3];
        Self { newer, older, next }
    }
}

// SAFETY: only the table touches them, so only a thread that has the turn; they own nothing.
#[allow(unsafe_code)]
unsafe impl<K, V> Send for Links<K, V> {}
// SAFETY: the same.
#[allow(unsafe_code)]
unsafe impl<K, V> Sync for Links<K, V> {}

#[derive(Debug)]
pub(in crate::cache) struct Table<K, V> {
    buckets: Buckets<K, V>,
    by_use: ByUse<K, V>,
    guards: Cell<usize>,
    /// What was taken out while there was a guard.
    removed: Cell<Place<K, V>>,
    /// How many were taken out ever, and one.
    removals: Cell<u64>,
}

// SAFETY: the entries are the table's, and may be sent if what they hold may.
#[allow(unsafe_code)]
unsafe impl<K: Send + Sync, V: Send + Sync> Send for Table<K, V> {}
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
        if guards == 0 && !self.0.removed.get().is_null() {
            self.0.free();
        }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        let (guards, removed) = (Cell::new(0), Cell::new(null()));
        let (buckets, by_use) = (Buckets::default(), ByUse::default());
        Self { buckets, by_use, guards, removed, removals: Cell::new(1) }
    }
}

impl<K, V> Drop for Table<K, V> {
    fn drop(&mut self) {
        let entries: Vec<_> = self.by_use.iter().collect();
        for entry in entries {
            self.take_out(entry);
        }
        self.free();
    }
}

impl<K, V> Table<K, V> {
    #[inline]
    pub(in crate::cache) fn guard(&self) -> Guard<'_, K, V> {
        self.guards.set(self.guards.get() + 1);
        Guard(self)
    }

    /// Frees what was taken out.
    #[allow(unsafe_code)]
    fn free(&self) {
        let mut next = self.removed.replace(null());
        while !next.is_null() {
            // SAFETY: it was a box before it came in; it is linked nowhere, and there is no guard under
            // which somebody could still look at it.
            let entry = unsafe { Box::from_raw(next.cast_mut()) };
            next = entry.links.next.get();
        }
    }

    /// The entries of a hash.
    #[inline]
    #[allow(unsafe_code)]
    fn of_hash(&self, hash: u64) -> impl Iterator<Item = &Entry<K, V>> {
        // SAFETY: what is in a bucket is there until it is removed, and then as long as a guard.
        let at = |place: Place<K, V>| unsafe { place.as_ref() };
        let all = std::iter::successors(at(self.buckets.first(hash)), move |entry| {
            at(entry.links.next.get())
        });
        all.filter(move |entry| entry.hash == hash)
    }

    /// Asks `pick` about each entry of a hash until it picks one.
    #[inline]
    pub(in crate::cache) fn find<'g, R>(
        &'g self,
        hash: u64,
        _: &'g Guard<'_, K, V>,
        pick: impl FnMut(&'g Entry<K, V>) -> Option<R>,
    ) -> Option<R> {
        self.of_hash(hash).find_map(pick)
    }

    /// Lets an entry in as the newest, if `decide` says so when it has seen those of its hash.
    pub(in crate::cache) fn change<'g>(
        &'g self,
        _: &'g Guard<'_, K, V>,
        entry: Owned<Entry<K, V>>,
        mut decide: impl FnMut(&mut dyn Iterator<Item = &Entry<K, V>>) -> Change,
    ) -> Changed<'g, K, V> {
        let Change::Insert { over } = decide(&mut self.of_hash(entry.hash)) else {
            return Changed::No(entry);
        };
        let old = over.and_then(|id| self.of_hash(entry.hash).find(|other| other.id == id));
        let entry = self.take_in(entry);
        match old {
            None => Changed::Inserted(entry),
            Some(old) => {
                self.take_out(old);
                Changed::Replaced { entry, old }
            }
        }
    }

    #[allow(unsafe_code)]
    fn take_in(&self, entry: Owned<Entry<K, V>>) -> &Entry<K, V> {
        // SAFETY: a box stays where it is, and only `free` makes one of it again, after `take_out`.
        unsafe {
            let entry = &*Box::into_raw(entry);
            self.buckets.insert(entry);
            self.by_use.add(entry);
            entry
        }
    }

    /// Takes out an entry that is there; it is freed later.
    fn take_out(&self, entry: &Entry<K, V>) -> bool {
        let is_there = self.buckets.remove(entry);
        if is_there {
            self.by_use.take_out(entry);
            self.removals.set(self.removals.get() + 1);
            entry.links.next.set(self.removed.replace(entry));
        }
        is_there
    }

    /// Takes out this very entry; false if it isn't in the table.
    pub(in crate::cache) fn remove(&self, entry: &Entry<K, V>, _: &Guard<'_, K, V>) -> bool {
        self.take_out(entry)
    }

    /// Tells that the tick of an entry of the table has risen.
    #[inline]
    pub(in crate::cache) fn used(&self, entry: &Entry<K, V>) {
        self.by_use.used(entry);
    }

    /// One more than how many entries were taken out ever.
    #[inline]
    pub(in crate::cache) fn removals(&self) -> u64 {
        self.removals.get()
    }

    /// The entry that was used last.
    #[inline]
    pub(in crate::cache) fn newest<'g>(
        &'g self,
        _: &'g Guard<'_, K, V>,
    ) -> Option<&'g Entry<K, V>> {
        self.by_use.newest()
    }

    /// The entry that was used next after the last use of another.
    #[inline(always)]
    pub(in crate::cache) fn newer<'t>(&'t self, entry: &'t Entry<K, V>) -> Option<&'t Entry<K, V>> {
        self.by_use.newer(entry)
    }

    /// The entry at an address.
    ///
    /// # Safety
    /// It was in the table when the number of removals was what it is now.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(in crate::cache) unsafe fn at(&self, place: usize) -> &Entry<K, V> {
        // SAFETY: what is in the table stays where it is, and only a removal takes it out.
        unsafe { &*std::ptr::with_exposed_provenance(place) }
    }

    /// All entries, from that with the oldest use on.
    pub(in crate::cache) fn by_use<'g>(
        &'g self,
        _: &'g Guard<'_, K, V>,
    ) -> impl Iterator<Item = &'g Entry<K, V>> {
        self.by_use.iter()
    }

    /// Calls `visit` with every entry.
    pub(in crate::cache) fn for_each<'g>(
        &'g self,
        guard: &'g Guard<'_, K, V>,
        visit: impl FnMut(&'g Entry<K, V>),
    ) {
        self.by_use(guard).for_each(visit);
    }

    /// Whether something that was taken out is kept for who may still look at it.
    #[cfg(test)]
    pub(in crate::cache) fn keeps_removed(&self) -> bool {
        !self.removed.get().is_null()
    }

    /// Checks what must hold between any two calls.
    #[cfg(test)]
    pub(in crate::cache) fn check(&self) {
        assert_eq!(self.buckets.check(), self.by_use.check());
        assert!(self.removed.get().is_null() || self.guards.get() > 0);
    }
}

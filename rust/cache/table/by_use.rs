//! The entries of the table of threads that take turns, in the order of their use.
//!
//! A list that each use changes: the entry goes to its newest end, which is where its tick belongs,
//! since ticks are counted there (O2).

use super::Place;
use crate::cache::entry::Entry;
use crate::cache::tick::Tick;
use std::cell::Cell;
use std::ptr::{eq, null};

/// Every entry that is linked stays where it is until it is unlinked: the table sees to that.
#[derive(Debug)]
pub(super) struct ByUse<K, V> {
    newest: Cell<Place<K, V>>,
    oldest: Cell<Place<K, V>>,
}

impl<K, V> Default for ByUse<K, V> {
    fn default() -> Self {
        Self { newest: Cell::new(null()), oldest: Cell::new(null()) }
    }
}

#[inline]
#[allow(unsafe_code)]
fn at<K, V>(place: &Cell<Place<K, V>>) -> Option<&Entry<K, V>> {
    // SAFETY: what a list links is there, and stays at least until a turn in which it is unlinked ends.
    unsafe { place.get().as_ref() }
}

/// The tick as which an entry counts here: what nobody has seen yet is the newest, and what is dead
/// stays where it was.
#[inline]
fn tick<K, V>(entry: &Entry<K, V>) -> Tick {
    entry.tick().unwrap_or(Tick::DEAD)
}

impl<K, V> ByUse<K, V> {
    /// Puts an entry in as the newest.
    ///
    /// # Safety
    /// It isn't there, and it stays where it is until it has been taken out.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) unsafe fn add(&self, entry: &Entry<K, V>) {
        self.link(entry, null(), self.newest.get());
    }

    /// Links an entry between a newer and an older one.
    #[inline]
    #[allow(unsafe_code)]
    fn link(&self, entry: &Entry<K, V>, newer: Place<K, V>, older: Place<K, V>) {
        entry.links.newer.set(newer);
        entry.links.older.set(older);
        // SAFETY: as in `at`, for both.
        let (newer, older) = unsafe { (newer.as_ref(), older.as_ref()) };
        newer.map_or(&self.newest, |newer| &newer.links.older).set(entry);
        older.map_or(&self.oldest, |older| &older.links.newer).set(entry);
    }

    /// Takes an entry out that is there.
    #[inline]
    pub(super) fn take_out(&self, entry: &Entry<K, V>) {
        let (newer, older) = (at(&entry.links.newer), at(&entry.links.older));
        newer.map_or(&self.newest, |newer| &newer.links.older).set(entry.links.older.get());
        older.map_or(&self.oldest, |older| &older.links.newer).set(entry.links.newer.get());
    }

    /// Puts an entry whose tick has risen where it belongs now.
    #[inline]
    pub(super) fn used(&self, entry: &Entry<K, V>) {
        if !eq(self.newest.get(), entry) {
            self.move_up(entry);
        }
    }

    #[inline]
    fn move_up(&self, entry: &Entry<K, V>) {
        let used = tick(entry);
        let (mut newer, mut here) = (null(), at(&self.newest));
        // A use that is told late belongs below those that came between; nearly always there are none.
        while let Some(other) = here
            && tick(other) > used
        {
            (newer, here) = (std::ptr::from_ref(other), at(&other.links.older));
        }
        let Some(older) = here.filter(|other| !eq(*other, entry)) else { return };
        self.take_out(entry);
        self.link(entry, newer, older);
    }

    #[inline]
    pub(super) fn newest(&self) -> Option<&Entry<K, V>> {
        at(&self.newest)
    }

    #[inline(always)]
    pub(super) fn newer<'t>(&'t self, entry: &'t Entry<K, V>) -> Option<&'t Entry<K, V>> {
        at(&entry.links.newer)
    }

    /// From the oldest on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<K, V>> {
        std::iter::successors(at(&self.oldest), |entry| at(&entry.links.newer))
    }

    /// Checks that the list is one in both directions, by rising tick; how many entries there are.
    #[cfg(test)]
    pub(super) fn check(&self) -> usize {
        let (mut older, mut entries) = (null(), 0);
        let mut last = Tick::DEAD;
        for entry in self.iter() {
            assert!(eq(entry.links.older.get(), older));
            assert!(tick(entry) > last, "by rising tick");
            (older, last, entries) = (std::ptr::from_ref(entry), tick(entry), entries + 1);
        }
        assert!(eq(self.newest.get(), older));
        entries
    }
}

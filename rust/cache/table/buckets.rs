//! The buckets of the table of threads that take turns: they grow by one at a time.
//!
//! *Linear hashing*: the next bucket that is added takes its entries from one other bucket, so no put
//! moves more than two of them, however many entries there are. There are two buckets for each entry
//! that ever was at once; they lie in segments, none of which is ever moved. The entries of a bucket are
//! linked by [`Links::next`].

use super::Place;
use crate::cache::entry::Entry;
use std::cell::{Cell, UnsafeCell};
use std::ptr::null;

/// The buckets of a segment, 8 KiB of them.
const SEGMENT: usize = 1 << SEGMENT_BITS;
const SEGMENT_BITS: u32 = 10;
/// How many there are before any is split.
const FIRST: usize = 16;
const BUCKETS_AN_ENTRY: usize = 2;

type Bucket<K, V> = Cell<Place<K, V>>;
type Segment<K, V> = Box<[Bucket<K, V>; SEGMENT]>;

#[derive(Debug)]
pub(super) struct Buckets<K, V> {
    /// Never less than what `len` buckets take, but for a table that never had an entry.
    segments: UnsafeCell<Vec<Segment<K, V>>>,
    len: Cell<usize>,
    /// The least power of two that isn't less than `len`, less one.
    mask: Cell<usize>,
    entries: Cell<usize>,
}

impl<K, V> Default for Buckets<K, V> {
    fn default() -> Self {
        let (len, mask) = (Cell::new(FIRST), Cell::new(FIRST - 1));
        Self { segments: UnsafeCell::default(), len, mask, entries: Cell::new(0) }
    }
}

impl<K, V> Buckets<K, V> {
    #[inline]
    #[allow(unsafe_code)]
    fn segments(&self) -> &[Segment<K, V>] {
        // SAFETY: this thread has the turn; `add_segment`, which alone writes, doesn't run while what
        // is borrowed here is used.
        unsafe { &*self.segments.get() }
    }

    #[allow(unsafe_code)]
    fn add_segment(&self) {
        let segment = Box::new([const { Cell::new(null()) }; SEGMENT]);
        // SAFETY: as in `segments`.
        unsafe { &mut *self.segments.get() }.push(segment);
    }

    #[inline]
    fn index(&self, hash: u64) -> usize {
        let (index, len) = (hash as usize & self.mask.get(), self.len.get());
        // A bucket that isn't there yet is still part of that which it will be split from.
        if index < len { index } else { index & self.mask.get() >> 1 }
    }

    /// `None` while there never was an entry.
    #[inline]
    fn at(&self, index: usize) -> Option<&Bucket<K, V>> {
        Some(&self.segments().get(index >> SEGMENT_BITS)?[index % SEGMENT])
    }

    /// The first entry of the bucket of a hash.
    #[inline]
    pub(super) fn first(&self, hash: u64) -> Place<K, V> {
        self.at(self.index(hash)).map_or(null(), Cell::get)
    }

    /// Puts an entry in that isn't there.
    ///
    /// # Safety
    /// The entry stays where it is until it has been removed.
    #[allow(unsafe_code)]
    pub(super) unsafe fn insert(&self, entry: &Entry<K, V>) {
        if self.segments().is_empty() {
            self.add_segment();
        }
        self.link(entry);
        self.entries.set(self.entries.get() + 1);
        for _ in 0..BUCKETS_AN_ENTRY {
            if self.len.get() < BUCKETS_AN_ENTRY * self.entries.get() {
                self.split();
            }
        }
    }

    fn link(&self, entry: &Entry<K, V>) {
        let bucket = self.at(self.index(entry.hash)).expect("there is a segment");
        entry.links.next.set(bucket.replace(entry));
    }

    /// Adds a bucket, with what of another one now belongs there.
    #[allow(unsafe_code)]
    fn split(&self) {
        let added = self.len.get();
        if added > self.mask.get() {
            self.mask.set(2 * self.mask.get() + 1);
        }
        if added == self.segments().len() * SEGMENT {
            self.add_segment();
        }
        self.len.set(added + 1);
        let split = self.at(added & self.mask.get() >> 1).expect("it is older than the added one");
        let mut next = split.replace(null());
        // SAFETY: what is linked in a bucket stays where it is, by the promise of `insert`.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.links.next.get();
            self.link(entry);
        }
    }

    /// Takes this very entry out; false if it isn't there.
    #[allow(unsafe_code)]
    pub(super) fn remove(&self, entry: &Entry<K, V>) -> bool {
        let Some(mut link) = self.at(self.index(entry.hash)) else { return false };
        // SAFETY: as in `split`.
        while let Some(other) = unsafe { link.get().as_ref() } {
            if std::ptr::eq(other, entry) {
                link.set(other.links.next.get());
                self.entries.set(self.entries.get() - 1);
                return true;
            }
            link = &other.links.next;
        }
        false
    }

    /// Checks that each entry lies in the bucket of its hash, and none has too many; how many entries
    /// there are.
    #[cfg(test)]
    #[allow(unsafe_code)]
    pub(super) fn check(&self) -> usize {
        let mut entries = 0;
        let buckets = if self.segments().is_empty() { 0 } else { self.len.get() };
        for index in 0..buckets {
            let mut next = self.at(index).expect("all are there").get();
            // SAFETY: as in `split`.
            while let Some(entry) = unsafe { next.as_ref() } {
                assert_eq!(self.index(entry.hash), index);
                (entries, next) = (entries + 1, entry.links.next.get());
            }
        }
        assert_eq!(entries, self.entries.get());
        assert!(self.len.get() >= BUCKETS_AN_ENTRY * entries, "enough buckets");
        entries
    }
}

//! The table as a model checker sees it: a few buckets, each an index into a list of all chains that
//! ever were.
//!
//! Reads and changes have the orderings of the real table, and no more: a look acquires what the
//! change released. The list itself is behind a lock that the checker doesn't know.

use super::Change;
use super::chain::without;
use crate::cache::entry::Entry;
use crate::sync::{Ordering, SharedU64};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

const BUCKETS: usize = 3;

type Chain<K, V> = Arc<Vec<Arc<Entry<K, V>>>>;

/// An entry that is not in the table, or not in its hands alone.
pub(in crate::cache) type Owned<E> = Arc<E>;

/// An entry that never was in the table.
pub(in crate::cache) fn unwrapped<E>(entry: Owned<E>) -> E {
    Arc::into_inner(entry).expect("nobody else has seen it")
}

/// What was done to the entries of a hash.
pub(in crate::cache) type Changed<'g, K, V> = super::Changed<'g, Entry<K, V>>;

/// An entry doesn't know where it stands.
pub(in crate::cache) type Links<K, V> = PhantomData<fn() -> (K, V)>;

#[derive(Debug)]
pub(in crate::cache) struct Table<K, V> {
    buckets: [SharedU64; BUCKETS],
    chains: Mutex<Vec<Chain<K, V>>>,
}

/// Nothing is freed before the table is.
pub(in crate::cache) struct Guard<'t, K, V>(PhantomData<&'t (K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| SharedU64::new(0)),
            chains: Mutex::new(vec![Arc::default()]),
        }
    }
}

impl<K, V> Table<K, V> {
    pub(in crate::cache) fn guard(&self) -> Guard<'_, K, V> {
        Guard(PhantomData)
    }

    fn load(&self, bucket: usize) -> (u64, Chain<K, V>) {
        let index = self.buckets[bucket].load(Ordering::Acquire);
        (index, Arc::clone(&self.chains.lock().unwrap()[index as usize]))
    }

    fn swap(&self, bucket: usize, from: u64, chain: Vec<Arc<Entry<K, V>>>) -> bool {
        let to = {
            let mut chains = self.chains.lock().unwrap();
            chains.push(Arc::new(chain));
            chains.len() as u64 - 1
        };
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.buckets[bucket].compare_exchange(from, to, success, failure).is_ok()
    }

    /// The entry, for as long as the table: every chain stays in the list.
    #[allow(unsafe_code)]
    fn outliving<'t>(&'t self, entry: &Arc<Entry<K, V>>) -> &'t Entry<K, V> {
        // SAFETY: the chain that has the entry is in `self.chains`, which only grows.
        unsafe { &*Arc::as_ptr(entry) }
    }

    pub(in crate::cache) fn find<'g, R>(
        &'g self,
        hash: u64,
        _: &'g Guard<'_, K, V>,
        mut pick: impl FnMut(&'g Entry<K, V>) -> Option<R>,
    ) -> Option<R> {
        let (_, chain) = self.load(hash as usize % BUCKETS);
        chain.iter().find_map(|entry| pick(self.outliving(entry)))
    }

    pub(in crate::cache) fn change<'g>(
        &'g self,
        _: &'g Guard<'_, K, V>,
        entry: Owned<Entry<K, V>>,
        mut decide: impl FnMut(&mut dyn Iterator<Item = &Entry<K, V>>) -> Change,
    ) -> Changed<'g, K, V> {
        let bucket = entry.hash as usize % BUCKETS;
        loop {
            let (index, chain) = self.load(bucket);
            let Change::Insert { over } = decide(&mut chain.iter().map(Arc::as_ref)) else {
                return Changed::No(entry);
            };
            let next = without(&chain, over).chain([Arc::clone(&entry)]).collect();
            if self.swap(bucket, index, next) {
                let old = over.and_then(|id| chain.iter().find(|other| other.id == id));
                let entry = self.outliving(&entry);
                return old.map_or(Changed::Inserted(entry), |old| Changed::Replaced {
                    entry,
                    old: self.outliving(old),
                });
            }
        }
    }

    pub(in crate::cache) fn remove(&self, entry: &Entry<K, V>, _: &Guard<'_, K, V>) -> bool {
        let bucket = entry.hash as usize % BUCKETS;
        loop {
            let (index, chain) = self.load(bucket);
            let is_it = |other: &&Arc<Entry<K, V>>| std::ptr::eq(Arc::as_ptr(other), entry);
            let Some(gone) = chain.iter().find(is_it) else { return false };
            if self.swap(bucket, index, without(&chain, Some(gone.id)).collect()) {
                return true;
            }
        }
    }

    pub(in crate::cache) fn used(&self, _: &Entry<K, V>) {}

    pub(in crate::cache) fn for_each<'g>(
        &'g self,
        _: &'g Guard<'_, K, V>,
        mut visit: impl FnMut(&'g Entry<K, V>),
    ) {
        for bucket in 0..BUCKETS {
            let (_, chain) = self.load(bucket);
            chain.iter().for_each(|entry| visit(self.outliving(entry)));
        }
    }
}

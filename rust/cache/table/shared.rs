//! The table of threads that run at once: lock-free, papaya's.
//!
//! A chain never changes: a change puts another chain there, and is made again if another
//! thread was faster.

use super::Change;
use super::chain::{Chain, without};
use crate::cache::as_it_is::AsItIs;
use crate::cache::entry::Entry;
use papaya::{Compute, HashMap, LocalGuard, Operation};
use std::hash::BuildHasherDefault;
use std::marker::PhantomData;
use std::sync::Arc;

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
    chains: HashMap<u64, Chain<Entry<K, V>>, BuildHasherDefault<AsItIs>>,
}

/// Keeps what is found from being freed.
pub(in crate::cache) struct Guard<'t, K, V> {
    held: LocalGuard<'t>,
    of: PhantomData<&'t Table<K, V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { chains: HashMap::default() }
    }
}

impl<K, V> Table<K, V> {
    #[inline]
    pub(in crate::cache) fn guard(&self) -> Guard<'_, K, V> {
        Guard { held: self.chains.guard(), of: PhantomData }
    }

    /// Asks `pick` about each entry of a hash, as they are at one moment, until it picks one.
    #[inline]
    pub(in crate::cache) fn find<'g, R>(
        &'g self,
        hash: u64,
        guard: &'g Guard<'_, K, V>,
        pick: impl FnMut(&'g Entry<K, V>) -> Option<R>,
    ) -> Option<R> {
        self.chains.get(&hash, &guard.held)?.as_slice().iter().map(Arc::as_ref).find_map(pick)
    }

    /// Lets an entry into the chain of its hash, if `decide` says so, which may be asked about several
    /// chains; gives what was done, which need not be its last answer.
    pub(in crate::cache) fn change<'g>(
        &'g self,
        guard: &'g Guard<'_, K, V>,
        entry: Owned<Entry<K, V>>,
        mut decide: impl FnMut(&mut dyn Iterator<Item = &Entry<K, V>>) -> Change,
    ) -> Changed<'g, K, V> {
        let changed = self.chains.compute(
            entry.hash,
            |found| {
                let chain = found.map_or(&[][..], |(_, chain)| chain.as_slice());
                match decide(&mut chain.iter().map(Arc::as_ref)) {
                    Change::No => Operation::Abort(()),
                    Change::Insert { over } => {
                        let entries = without(chain, over).chain([Arc::clone(&entry)]).collect();
                        Operation::Insert(Chain::of(entries).expect("one entry at least"))
                    }
                }
            },
            &guard.held,
        );
        let there = |chain: &'g Chain<_>, is: &dyn Fn(&Entry<K, V>) -> bool| {
            chain.as_slice().iter().map(Arc::as_ref).find(|other| is(other))
        };
        let is_entry = |other: &Entry<K, V>| other.id == entry.id;
        match changed {
            Compute::Inserted(_, new) => {
                Changed::Inserted(there(new, &is_entry).expect("it has just come in"))
            }
            Compute::Updated { old: (_, old), new: (_, new) } => {
                let stays = |other: &Entry<K, V>| there(new, &|stays| stays.id == other.id);
                let gone = there(old, &|other| stays(other).is_none());
                let entry = there(new, &is_entry).expect("it has just come in");
                gone.map_or(Changed::Inserted(entry), |old| Changed::Replaced { entry, old })
            }
            Compute::Removed(..) | Compute::Aborted(()) => Changed::No(entry),
        }
    }

    /// Takes out this very entry; false if it isn't in the table.
    pub(in crate::cache) fn remove(&self, entry: &Entry<K, V>, guard: &Guard<'_, K, V>) -> bool {
        let removed = self.chains.compute(
            entry.hash,
            |found| {
                let chain = found.map_or(&[][..], |(_, chain)| chain.as_slice());
                match chain.iter().find(|other| std::ptr::eq(Arc::as_ptr(other), entry)) {
                    None => Operation::Abort(()),
                    Some(gone) => match Chain::of(without(chain, Some(gone.id)).collect()) {
                        None => Operation::Remove,
                        Some(rest) => Operation::Insert(rest),
                    },
                }
            },
            &guard.held,
        );
        !matches!(removed, Compute::Aborted(()))
    }

    /// A use is in the entry's tick alone.
    #[inline]
    pub(in crate::cache) fn used(&self, _: &Entry<K, V>) {}

    /// Calls `visit` with every entry that is there all the while, and perhaps with some that come or
    /// go meanwhile.
    pub(in crate::cache) fn for_each<'g>(
        &'g self,
        guard: &'g Guard<'_, K, V>,
        visit: impl FnMut(&'g Entry<K, V>),
    ) {
        self.chains
            .iter(&guard.held)
            .flat_map(|(_, chain)| chain.as_slice())
            .map(Arc::as_ref)
            .for_each(visit);
    }
}

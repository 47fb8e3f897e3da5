//! The table of threads that run at once: lock-free, papaya's.
//!
//! A chain never changes: a change puts another chain there, and is made again if another
//! thread was faster.

use super::{Chain, Change, Changed, without};
use crate::cache::as_it_is::AsItIs;
use crate::cache::entry::Entry;
use papaya::{Compute, HashMap, LocalGuard, Operation};
use std::hash::BuildHasherDefault;
use std::marker::PhantomData;
use std::sync::Arc;

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

    /// Changes the chain of a hash as `decide` says, which may be asked for several chains; gives what
    /// was done, which need not be its last answer.
    pub(in crate::cache) fn change(
        &self,
        hash: u64,
        guard: &Guard<'_, K, V>,
        mut decide: impl FnMut(&[Arc<Entry<K, V>>]) -> Change<Entry<K, V>>,
    ) -> Changed<Entry<K, V>> {
        let changed = self.chains.compute(
            hash,
            |found| {
                let chain = found.map_or(&[][..], |(_, chain)| chain.as_slice());
                match decide(chain) {
                    Change::No => Operation::Abort(()),
                    Change::Insert { entry, over } => {
                        let entries = without(chain, over.as_ref()).chain([entry]).collect();
                        Operation::Insert(Chain::of(entries).expect("one entry at least"))
                    }
                }
            },
            &guard.held,
        );
        match changed {
            Compute::Inserted(..) => Changed::Inserted,
            Compute::Updated { old: (_, old), new: (_, new) } => {
                let stays = |entry: &&Arc<_>| new.as_slice().iter().any(|e| Arc::ptr_eq(e, entry));
                let gone = old.as_slice().iter().find(|entry| !stays(entry));
                gone.map_or(Changed::Inserted, |gone| Changed::Replaced(Arc::clone(gone)))
            }
            Compute::Removed(..) | Compute::Aborted(()) => Changed::No,
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
                    Some(gone) => match Chain::of(without(chain, Some(gone)).collect()) {
                        None => Operation::Remove,
                        Some(rest) => Operation::Insert(rest),
                    },
                }
            },
            &guard.held,
        );
        !matches!(removed, Compute::Aborted(()))
    }

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

//! The entries of one hash, where a chain never changes but is replaced.

use super::EntryId;
use crate::cache::entry::Entry;
use std::sync::Arc;

/// The entries of one hash.
#[derive(Debug)]
#[cfg_attr(any(loom, shuttle), allow(dead_code))]
pub(super) enum Chain<E> {
    One(Arc<E>),
    /// Boxed twice, so that the usual chain is two words.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Arc<E>>>),
}

#[cfg_attr(any(loom, shuttle), allow(dead_code))]
impl<E> Chain<E> {
    pub(super) fn as_slice(&self) -> &[Arc<E>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    pub(super) fn of(mut entries: Vec<Arc<E>>) -> Option<Self> {
        match entries.len() {
            0 | 1 => entries.pop().map(Self::One),
            _ => Some(Self::Many(Box::new(entries))),
        }
    }
}

/// The entries of a chain but for one.
pub(super) fn without<K, V>(
    chain: &[Arc<Entry<K, V>>],
    gone: Option<EntryId>,
) -> impl Iterator<Item = Arc<Entry<K, V>>> {
    chain.iter().filter(move |entry| gone != Some(entry.id)).map(Arc::clone)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_an_entry_at_least_and_a_list_for_two() {
        let chain = |length: u32| Chain::of((0..length).map(Arc::new).collect());
        assert!(chain(0).is_none());
        assert!(matches!(chain(1).unwrap(), Chain::One(_)));
        assert!(matches!(chain(3).unwrap(), Chain::Many(_)));
        assert_eq!(chain(3).unwrap().as_slice().len(), 3);
    }
}

//! Where an entry is found: a table from hashes to the entries of that hash.
//!
//! The table sees only numbers and the addresses of entries; keys are compared by the cache. The
//! entries of one hash, nearly always one, form a *chain*. There are three tables behind one
//! interface: `shared` for threads that run at once (lock-free, papaya's), `turns` for threads that
//! take turns under a GIL, and `model` for the model checkers.

use std::sync::Arc;

#[cfg_attr(any(loom, shuttle), path = "model.rs")]
#[cfg_attr(all(take_turns, not(any(loom, shuttle))), path = "turns.rs")]
#[cfg_attr(not(any(take_turns, loom, shuttle)), path = "shared.rs")]
mod chains;

pub(super) use chains::{Guard, Table};

/// What somebody wants to do to a chain.
pub(in crate::cache) enum Change<E> {
    /// Nothing.
    No,
    /// This entry comes in, instead of another one if that is given.
    Insert { entry: Arc<E>, over: Option<Arc<E>> },
}

/// What was done to a chain.
pub(in crate::cache) enum Changed<E> {
    No,
    /// The entry came in.
    Inserted,
    /// The entry came in, and this one went.
    Replaced(Arc<E>),
}

/// The entries of one hash.
#[derive(Debug)]
#[cfg_attr(any(loom, shuttle), allow(dead_code))]
enum Chain<E> {
    One(Arc<E>),
    /// Boxed twice, so that the usual chain is two words.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Arc<E>>>),
}

#[cfg_attr(any(loom, shuttle), allow(dead_code))]
impl<E> Chain<E> {
    fn as_slice(&self) -> &[Arc<E>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn of(mut entries: Vec<Arc<E>>) -> Option<Self> {
        match entries.len() {
            0 | 1 => entries.pop().map(Self::One),
            _ => Some(Self::Many(Box::new(entries))),
        }
    }
}

fn without<'c, E>(
    chain: &'c [Arc<E>],
    gone: Option<&'c Arc<E>>,
) -> impl Iterator<Item = Arc<E>> + 'c {
    let stays = move |entry: &&Arc<E>| gone.is_none_or(|gone| !Arc::ptr_eq(entry, gone));
    chain.iter().filter(stays).map(Arc::clone)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_an_entry_at_least_and_a_list_for_two() {
        let chain = |length: u32| Chain::of((0..length).map(Arc::new).collect());
        assert!(chain(0).is_none(), "a hash without entries is not in the table");
        assert!(matches!(chain(1), Some(Chain::One(_))));
        assert!(matches!(chain(2), Some(Chain::Many(entries)) if entries.len() == 2));
    }
}

//! Where an entry is found: a table from hashes to the entries of that hash.
//!
//! The table sees only numbers and the addresses of entries; keys are compared by the cache. The
//! entries of one hash, nearly always one, form a *chain*. There are three tables behind one
//! interface: `shared` for threads that run at once (lock-free, papaya's), `turns` for threads that
//! take turns under a GIL, of `buckets` and `by_use`, and `model` for the model checkers.

use super::EntryId;

#[cfg(all(take_turns, not(any(loom, shuttle))))]
mod buckets;
#[cfg(all(take_turns, not(any(loom, shuttle))))]
mod by_use;
#[cfg(not(all(take_turns, not(any(loom, shuttle)))))]
mod chain;
#[cfg_attr(any(loom, shuttle), path = "model.rs")]
#[cfg_attr(all(take_turns, not(any(loom, shuttle))), path = "turns.rs")]
#[cfg_attr(not(any(take_turns, loom, shuttle)), path = "shared.rs")]
mod chains;

pub(super) use chains::{Guard, Links, Owned, Table, unwrapped};

/// What somebody wants to do to a chain.
pub(super) enum Change {
    /// Nothing.
    No,
    /// The new entry comes in, instead of another one of the chain if that is given.
    Insert { over: Option<EntryId> },
}

/// What was done to a chain. What went is there as long as the guard.
pub(super) enum Changed<'g, E> {
    /// Nothing.
    No(Owned<E>),
    /// The entry came in.
    Inserted(&'g E),
    /// The entry came in, and the old one went.
    Replaced { entry: &'g E, old: &'g E },
}

/// Where an entry is.
#[cfg(all(take_turns, not(any(loom, shuttle))))]
type Place<K, V> = *const super::entry::Entry<K, V>;

//! What a cache keeps of a value, and what comes of storing one.

use super::key::SharedKey;
use crate::cache::{Evicted, Removed};
use pyo3::prelude::*;
use std::sync::Arc;

/// A value as the cache keeps it.
pub(super) struct Kept {
    pub(super) value: Py<PyAny>,
    /// Seconds that its computation took, which a hit saves.
    pub(super) cost_s: f64,
}

/// What came of storing a value.
#[derive(Default)]
pub(super) struct Stored {
    /// Bytes that the value counts for, if bytes are counted.
    pub(super) bytes: Option<u64>,
    /// 1 if its key had been evicted lately. As a `bool` it would tell errors from results, and be
    /// copied with them by loads that wait for the stores before.
    pub(super) recomputed: u64,
    /// Entries that were evicted for it. Dropped by the caller when it owns no flight any more: a
    /// `__del__` may ask for the key that was just computed.
    pub(super) evicted: Evicted<SharedKey, Kept>,
    /// The old value of the key, and the new one if it was not stored; dropped likewise.
    pub(super) replaced: Vec<Left>,
}

impl Stored {
    /// Drops what had to go. `Py` would ask at each drop whether this thread is attached.
    pub(super) fn let_go(self, py: Python<'_>) {
        for Left { key, value, .. } in self.evicted.into_iter().chain(self.replaced) {
            if let Some(key) = Arc::into_inner(key) {
                key.let_go(py);
            }
            if let Some(kept) = value {
                kept.value.drop_ref(py);
            }
        }
    }
}

/// What left the cache.
pub(super) type Left = Removed<SharedKey, Kept>;

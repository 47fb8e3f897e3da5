//! A Python object that many calls read and few replace.
//!
//! With a GIL, whoever is attached is alone, so reading takes no lock and no atomic operation; that
//! saves about a tenth of a hit (`benches/RESULTS.md`). Without one, a mutex does it.

use crate::sync::Turns;
use pyo3::prelude::*;

/// Holds one Python object.
pub(super) struct Slot<T>(Turns<Py<T>>);

impl<T> Slot<T> {
    pub(super) fn new(object: Py<T>) -> Self {
        Self(Turns::new(object))
    }

    /// The object that is there now.
    #[inline]
    pub(super) fn load(&self, py: Python<'_>) -> Py<T> {
        self.0.with(|object| object.clone_ref(py))
    }

    /// Puts `object` in if `expected` is still there, and says whether it was.
    pub(super) fn replace(&self, _py: Python<'_>, expected: &Py<T>, object: Py<T>) -> bool {
        let replaced = self.0.with(|held| {
            let unchanged = held.is(expected);
            unchanged.then(|| std::mem::replace(held, object))
        });
        // What was there, or `object` itself, is dropped here, with nothing held.
        replaced.is_some()
    }

    /// Runs `visit` with the object, for the garbage collector.
    pub(super) fn visit<R>(&self, visit: impl FnOnce(&Py<T>) -> R) -> R {
        self.0.with(|object| visit(object))
    }
}

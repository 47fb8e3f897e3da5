//! A Python object that many calls read and few replace.
//!
//! With a GIL, whoever is attached is alone, so reading takes no lock and no atomic operation; that
//! saves about a tenth of a hit (`benches/RESULTS.md`). Without one, a mutex does it.

use pyo3::prelude::*;

#[cfg(not(Py_GIL_DISABLED))]
mod cell {
    use std::cell::UnsafeCell;

    /// Holds a value that whoever is attached reads and changes.
    #[derive(Default)]
    pub struct Cell<T>(UnsafeCell<T>);

    // SAFETY: the value is touched only inside `with`, by a thread that holds the GIL (the slot asks
    // for a `Python` token), so never by two threads at once; T itself may be sent between threads.
    #[allow(unsafe_code)]
    unsafe impl<T: Send> Sync for Cell<T> {}

    impl<T> Cell<T> {
        pub fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }

        /// `run` must neither run Python code nor call back into this cell.
        #[inline]
        #[allow(unsafe_code)]
        pub fn with<R>(&self, run: impl FnOnce(&mut T) -> R) -> R {
            // SAFETY: the GIL is held and, by the rule above, not released before `run` returns;
            // the reference does not outlive it.
            run(unsafe { &mut *self.0.get() })
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod cell {
    use crate::sync::{Mutex, lock};

    /// Holds a value that whoever is attached reads and changes.
    #[derive(Default)]
    pub struct Cell<T>(Mutex<T>);

    impl<T> Cell<T> {
        pub fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub fn with<R>(&self, run: impl FnOnce(&mut T) -> R) -> R {
            run(&mut lock(&self.0))
        }
    }
}

pub(super) use cell::Cell;

/// Holds one Python object.
pub(super) struct Slot<T>(cell::Cell<Py<T>>);

impl<T> Slot<T> {
    pub(super) fn new(object: Py<T>) -> Self {
        Self(cell::Cell::new(object))
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

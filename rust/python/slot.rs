//! A Python object that many calls read and few replace.
//!
//! With a GIL, whoever is attached is alone, so reading takes no lock and no atomic operation; that
//! saves about a tenth of a hit (`benches/RESULTS.md`). Without one, a reader must not even count a
//! reference: two threads that count at one object get less done than one.

use pyo3::prelude::*;
use slots::Inner;

pub(super) use slots::Held;

/// Holds one Python object.
pub(super) struct Slot<T>(Inner<T>);

impl<T> Slot<T> {
    pub(super) fn new(object: Py<T>) -> Self {
        Self(Inner::new(object))
    }

    /// The object that is there now.
    #[inline]
    pub(super) fn load<'py>(&self, py: Python<'py>) -> Held<'py, T> {
        slots::load(&self.0, py)
    }

    /// Puts `object` in if `expected` is still there, and says whether it was.
    pub(super) fn replace(&self, _py: Python<'_>, expected: &Held<'_, T>, object: Py<T>) -> bool {
        slots::replace(&self.0, expected, object)
    }

    /// Runs `visit` with the object, for the garbage collector.
    pub(super) fn visit<R>(&self, visit: impl FnOnce(&Py<T>) -> R) -> R {
        slots::visit(&self.0, visit)
    }
}

#[cfg(take_turns)]
mod slots {
    use crate::sync::Turns;
    use pyo3::prelude::*;

    pub(super) type Inner<T> = Turns<Py<T>>;
    pub(in crate::python) type Held<'py, T> = Bound<'py, T>;

    #[inline]
    pub(super) fn load<'py, T>(inner: &Inner<T>, py: Python<'py>) -> Held<'py, T> {
        inner.with(|object| object.bind(py).clone())
    }

    pub(super) fn replace<T>(inner: &Inner<T>, expected: &Held<'_, T>, object: Py<T>) -> bool {
        let replaced = inner.with(|held| {
            let unchanged = held.is(expected);
            unchanged.then(|| std::mem::replace(held, object))
        });
        // What was there, or `object` itself, is dropped here, with nothing held.
        replaced.is_some()
    }

    pub(super) fn visit<T, R>(inner: &Inner<T>, visit: impl FnOnce(&Py<T>) -> R) -> R {
        inner.with(|object| visit(object))
    }
}

#[cfg(not(take_turns))]
mod slots {
    use crate::sync::{Loaded, Published};
    use pyo3::prelude::*;
    use std::marker::PhantomData;
    use std::ops::Deref;

    pub(super) type Inner<T> = Published<Py<T>>;

    /// What was there, for as long as its reader is attached.
    pub(in crate::python) struct Held<'py, T>(Loaded<Py<T>>, PhantomData<&'py ()>);

    impl<T> Deref for Held<'_, T> {
        type Target = Py<T>;

        fn deref(&self) -> &Py<T> {
            &self.0
        }
    }

    #[inline]
    pub(super) fn load<'py, T>(inner: &Inner<T>, _py: Python<'py>) -> Held<'py, T> {
        Held(inner.load(), PhantomData)
    }

    pub(super) fn replace<T>(inner: &Inner<T>, expected: &Held<'_, T>, object: Py<T>) -> bool {
        inner.swap(&expected.0, object)
    }

    pub(super) fn visit<T, R>(inner: &Inner<T>, visit: impl FnOnce(&Py<T>) -> R) -> R {
        visit(&inner.load())
    }
}

//! `ForwardCache`: the cache of the core with Python objects in it.

use super::key::{Query, SharedKey, Verdicts};
use crate::cache::{Cache, Removed};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyInt;
use pyo3::{Borrowed, PyTraverseError, PyVisit};
use std::num::NonZeroUsize;

/// The class of the sentinel `_MISS`.
#[pyclass(frozen, module = "forwardcache._core")]
struct Miss;

#[pymethods]
impl Miss {
    fn __repr__(&self) -> &'static str {
        "_MISS"
    }

    /// Copies and pickles stay the one sentinel.
    fn __reduce__(&self) -> &'static str {
        "_MISS"
    }
}

/// The sentinel that `ForwardCache.get` returns where there is no value.
pub(super) fn miss(py: Python<'_>) -> PyResult<&Py<PyAny>> {
    static MISS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MISS.get_or_try_init(py, || Ok(Py::new(py, Miss)?.into_any()))
}

/// Exact least-recently-used cache.
///
/// Keys are hashable tuples of any length, compared as Python compares them; values are any
/// objects, None included.
///
/// Args:
///     maxsize: Most entries kept; None for no limit.
///
/// Raises:
///     ValueError: maxsize is not positive.
#[pyclass(frozen, subclass, weakref, module = "forwardcache._core")]
pub(super) struct ForwardCache {
    cache: Cache<SharedKey, Py<PyAny>>,
}

/// The most entries kept, as Python gives it.
pub(super) struct MaxSize(Option<NonZeroUsize>);

impl MaxSize {
    pub(super) const DEFAULT: Self = Self(NonZeroUsize::new(256));
}

impl<'a, 'py> FromPyObject<'a, 'py> for MaxSize {
    type Error = PyErr;

    fn extract(maxsize: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if maxsize.is_none() {
            return Ok(Self(None));
        }
        let maxsize = maxsize.cast::<PyInt>()?;
        if !maxsize.gt(0)? {
            return Err(PyValueError::new_err(format!(
                "maxsize must be positive or None, got {}",
                maxsize.repr()?
            )));
        }
        // What no machine can hold is no limit.
        Ok(Self(maxsize.extract().ok().and_then(NonZeroUsize::new)))
    }
}

impl ForwardCache {
    pub(super) fn with_maxsize(maxsize: MaxSize) -> Self {
        Self { cache: Cache::new(maxsize.0) }
    }

    /// Reads the entry of `query` with `read` and makes it the most recent.
    #[inline]
    pub(super) fn lookup<R>(
        &self,
        query: &Query<'_, '_>,
        mut read: impl FnMut(&SharedKey, &Py<PyAny>) -> R,
    ) -> PyResult<Option<R>> {
        let mut verdicts = Verdicts::default();
        loop {
            let same = |id, stored: &SharedKey| verdicts.compare(id, query, stored);
            match self.cache.get(query.hash, same, &mut read) {
                Ok(found) => return Ok(found),
                Err(undecided) => verdicts.ask(query, &undecided)?,
            }
        }
    }

    /// Stores `value`; `key` is what `query.store()` gave.
    pub(super) fn store(
        &self,
        query: &Query<'_, '_>,
        key: SharedKey,
        value: Py<PyAny>,
    ) -> PyResult<()> {
        let mut entry = Some((key, value));
        let mut verdicts = Verdicts::default();
        loop {
            let same = |id, stored: &SharedKey| verdicts.compare(id, query, stored);
            let take = || entry.take().expect("the core takes the entry once");
            match self.cache.put(query.hash, same, take) {
                // What was removed is dropped here, with nothing held: a `__del__` may use the cache.
                Ok(_removed) => return Ok(()),
                Err(undecided) => verdicts.ask(query, &undecided)?,
            }
        }
    }

    fn read_unmoved<R>(
        &self,
        query: &Query<'_, '_>,
        mut read: impl FnMut(&SharedKey, &Py<PyAny>) -> R,
    ) -> PyResult<Option<R>> {
        let mut verdicts = Verdicts::default();
        loop {
            let same = |id, stored: &SharedKey| verdicts.compare(id, query, stored);
            match self.cache.peek(query.hash, same, &mut read) {
                Ok(found) => return Ok(found),
                Err(undecided) => verdicts.ask(query, &undecided)?,
            }
        }
    }
}

#[pymethods]
impl ForwardCache {
    #[new]
    #[pyo3(signature = (maxsize=MaxSize::DEFAULT), text_signature = "(maxsize=256)")]
    fn new(maxsize: MaxSize) -> Self {
        Self::with_maxsize(maxsize)
    }

    /// Most entries kept, None if there is no limit.
    #[getter]
    fn maxsize(&self) -> Option<usize> {
        self.cache.maxsize().map(NonZeroUsize::get)
    }

    /// The value of `key`, which becomes the most recent, or the sentinel `_MISS`.
    fn get(&self, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = key.py();
        let value = Query::with(key, |query| self.lookup(query, |_, value| value.clone_ref(py)))?;
        value.map_or_else(|| Ok(miss(py)?.clone_ref(py)), Ok)
    }

    /// The value of `key`, or the sentinel `_MISS`; the order of use stays as it is.
    fn peek(&self, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = key.py();
        let read = |query: &Query<'_, '_>| self.read_unmoved(query, |_, value| value.clone_ref(py));
        Query::with(key, read)?.map_or_else(|| Ok(miss(py)?.clone_ref(py)), Ok)
    }

    /// Stores or replaces the value of `key` as the most recent one; evicts the least recent entry
    /// while there are more than `maxsize`.
    fn put(&self, key: &Bound<'_, PyAny>, value: Py<PyAny>) -> PyResult<()> {
        Query::with(key, |query| self.store(query, query.store(), value))
    }

    /// Removes every entry.
    fn clear(&self) {
        let removed: Vec<Removed<_, _>> = self.cache.clear();
        drop(removed);
    }

    fn __len__(&self) -> usize {
        self.cache.len()
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let found = Query::with(key, |query| self.read_unmoved(query, |_, _| ()))?;
        Ok(found.is_some())
    }

    fn __repr__(&self) -> String {
        let limit = self.maxsize().map_or_else(|| "None".to_owned(), |most| most.to_string());
        format!("ForwardCache(maxsize={limit}, len={})", self.cache.len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.cache.try_for_each(|key, value| {
            key.traverse(visit)?;
            visit.call(value)
        })
    }

    fn __clear__(&self) {
        self.clear();
    }
}

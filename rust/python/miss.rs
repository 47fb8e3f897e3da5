//! The sentinel `_MISS`, which says that a cache has no value.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

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

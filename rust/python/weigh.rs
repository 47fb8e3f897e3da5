//! How many bytes an entry counts for, where a cache is bounded in bytes.

use super::key::Query;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};
use std::cell::Cell;

/// Bytes of an entry beyond its key's text and its value: node, table, key fields, label.
/// Measured: `tests/instrumentation/test_bytes.py`.
const ENTRY_BYTES: u64 = 272;

/// Objects looked at for one entry; a longer list is judged by evenly spaced items.
const MAX_OBJECTS: u32 = 1000;
const MAX_ITEMS: usize = 100;

/// The function that says how many bytes an entry counts for.
pub(super) enum Weigher {
    /// Arrays, tensors and dataclasses by their contents, anything else by `sys.getsizeof`.
    Default,
    /// `weigher(key, value) -> int`.
    Custom(Py<PyAny>),
}

impl Weigher {
    pub(super) fn of(weigher: Option<Py<PyAny>>) -> Self {
        weigher.map_or(Self::Default, Self::Custom)
    }

    /// Bytes of an entry. Runs Python code: nothing of the core is held.
    ///
    /// # Errors
    /// Those of the weigher; `ValueError` if it gives a negative number.
    pub(super) fn weigh(&self, query: &Query<'_, '_>, value: &Py<PyAny>) -> PyResult<u64> {
        let py = query.py();
        match self {
            Self::Default => {
                let left = Cell::new(MAX_OBJECTS);
                let fields = query.fields().iter().map(|field| bytes_of(field, &left));
                let weight = fields.sum::<PyResult<u64>>().and_then(|key| {
                    Ok(ENTRY_BYTES
                        .saturating_add(key)
                        .saturating_add(bytes_of(value.bind(py), &left)?))
                });
                // What can't be weighed is too large for any limit: returned, not stored, counted.
                Ok(weight.unwrap_or(u64::MAX))
            }
            Self::Custom(weigher) => {
                let weight = weigher.call1(py, (query.to_tuple()?, value))?;
                let weight = weight.bind(py).cast::<PyInt>()?;
                weight.extract().map_err(|_| {
                    PyValueError::new_err(format!(
                        "a weigher must give 0 or more bytes, got {weight}"
                    ))
                })
            }
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Default => Ok(()),
            Self::Custom(weigher) => visit.call(weigher),
        }
    }
}

/// Bytes of an object and of what it holds, as long as there are objects `left` to look at.
fn bytes_of(object: &Bound<'_, PyAny>, left: &Cell<u32>) -> PyResult<u64> {
    let py = object.py();
    left.set(left.get().saturating_sub(1));
    if holds_nothing_else(object) {
        return object.call_method0(intern!(py, "__sizeof__"))?.extract();
    }
    // numpy arrays, torch tensors, and values that know their size; a class has a descriptor there.
    if let Some(bytes) = object.getattr_opt(intern!(py, "nbytes"))?
        && let Ok(bytes) = bytes.extract()
    {
        return Ok(bytes);
    }
    let own = object.call_method0(intern!(py, "__sizeof__"))?.extract::<u64>()?;
    if left.get() == 0 || object.is_instance_of::<PyType>() {
        return Ok(own);
    }
    let parts = parts_of(object)?;
    let step = parts.len().div_ceil(MAX_ITEMS).max(1);
    let looked_at = parts.iter().step_by(step).map(|part| bytes_of(part, left));
    let sum = looked_at.sum::<PyResult<u64>>()?;
    let looked_at = parts.len().div_ceil(step).max(1) as u64;
    Ok(own + sum.saturating_mul(parts.len() as u64) / looked_at)
}

/// Whether it is of a plain class: the fields of a key, which needn't be asked what they hold.
fn holds_nothing_else(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
}

/// What a container or a dataclass holds.
fn parts_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if object.is_instance_of::<PyTuple>() || object.is_instance_of::<PyList>() {
        return object.try_iter()?.collect();
    }
    if let Ok(dict) = object.cast::<PyDict>() {
        // Both as they are at one moment: without a GIL another thread may change the dict meanwhile.
        return Ok(dict.keys().iter().chain(dict.values().iter()).collect());
    }
    let fields = object.getattr_opt(intern!(object.py(), "__dataclass_fields__"))?;
    let names = fields.map(|fields| fields.try_iter()?.collect::<PyResult<Vec<_>>>());
    let parts = names.transpose()?.unwrap_or_default();
    parts.iter().map(|name| object.getattr(name.cast::<PyString>()?)).collect()
}

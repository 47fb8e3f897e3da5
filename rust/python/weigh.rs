//! How many bytes an entry counts for, where a cache is bounded in bytes.

use super::held::bytes_of;
use super::key::Query;
use super::walk::Walk;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;
use pyo3::{PyTraverseError, PyVisit};

/// Bytes of an entry beyond its key's text and its value: node, table, key fields, hash prefix.
/// Measured: `tests/instrumentation/test_bytes.py`.
const ENTRY_BYTES: u64 = 272;

/// The function that says how many bytes an entry counts for.
pub(super) enum Weigher {
    /// The memory that the value keeps, as [`bytes_of`] finds it.
    Default,
    /// `weigher(key, value) -> int`.
    Custom(Py<PyAny>),
}

impl Weigher {
    pub(super) fn of(weigher: Option<Py<PyAny>>) -> Self {
        weigher.map_or(Self::Default, Self::Custom)
    }

    /// Bytes of an entry; those of one that is far beyond `most` needn't be all. Runs Python code:
    /// nothing of the core is held.
    ///
    /// # Errors
    /// Those of the weigher; `ValueError` if it gives a negative number.
    pub(super) fn weigh(
        &self,
        query: &Query<'_, '_>,
        value: &Py<PyAny>,
        most: u64,
    ) -> PyResult<u64> {
        match self {
            // What can't be weighed is too large for any limit: returned, not stored, counted.
            Self::Default => Ok(bytes_of_entry(query, value, most).unwrap_or(u64::MAX)),
            Self::Custom(weigher) => {
                let py = query.py();
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

fn bytes_of_entry(query: &Query<'_, '_>, value: &Py<PyAny>, most: u64) -> PyResult<u64> {
    let mut walk = Walk::new(most);
    let mut bytes = ENTRY_BYTES;
    for field in query.fields() {
        bytes = bytes.saturating_add(bytes_of(&mut walk, field)?);
    }
    Ok(bytes.saturating_add(bytes_of(&mut walk, value.bind(query.py()))?))
}

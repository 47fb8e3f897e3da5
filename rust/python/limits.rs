//! How much a cache may keep, as Python says it.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{Borrowed, intern};
use std::num::{NonZeroU64, NonZeroUsize};

/// A limit as Python gives it: None, or a positive integer.
///
/// # Errors
/// `ValueError` naming the argument and the value; `TypeError` if it is no integer.
fn limit(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Option<NonZeroU64>> {
    if given.is_none() {
        return Ok(None);
    }
    let number = given.call_method0(intern!(given.py(), "__index__")).map_err(|_| {
        let class = given.get_type();
        PyTypeError::new_err(format!("{name} must be an int or None, got {given} of {class}"))
    })?;
    if !number.gt(0)? {
        let number = number.repr()?;
        let reason = format!("{name} must be positive or None, got {number}");
        return Err(PyValueError::new_err(reason));
    }
    // What no machine can hold is no limit.
    Ok(number.extract().ok().and_then(NonZeroU64::new))
}

/// The argument `maxsize`.
pub(super) struct MaxSize(pub(super) Option<NonZeroUsize>);

impl MaxSize {
    pub(super) const DEFAULT: Self = Self(NonZeroUsize::new(256));
}

impl<'a, 'py> FromPyObject<'a, 'py> for MaxSize {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let most = limit("maxsize", &given)?;
        Ok(Self(most.and_then(|most| most.try_into().ok())))
    }
}

/// The argument `max_bytes`.
pub(super) struct MaxBytes(pub(super) Option<NonZeroU64>);

impl MaxBytes {
    pub(super) const NO_LIMIT: Self = Self(None);
}

impl<'a, 'py> FromPyObject<'a, 'py> for MaxBytes {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        limit("max_bytes", &given).map(Self)
    }
}

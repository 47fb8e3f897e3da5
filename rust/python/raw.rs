//! Two questions about an object for which pyo3 has no function without `unsafe`.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

/// References to an object; without a GIL they may be more or less by now.
#[inline]
pub(super) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: it reads a field of the object, which is alive as long as the `Bound`.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// Whether an object's memory can be looked at as a buffer.
pub(super) fn has_buffer(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: it reads a slot of the object's class; the object is alive as long as the `Bound`.
    unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) != 0 }
}

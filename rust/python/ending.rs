//! Calls of the user's code by threads that the interpreter may end there.
//!
//! A daemon thread that wants to go on with Python code while the interpreter ends is ended there, by
//! CPython before 3.14 with `pthread_exit`. That unwinds the thread's stack, frames of this library
//! included, whose compiler knows of no such thing: the process would abort. So the thread stops
//! where it comes back from Python code, for the little while that its process has. It holds nothing
//! there that another thread would wait for without an end (I3).

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::{mem, ptr, thread};

/// Stops a thread that unwinds past it.
struct StopHere;

impl Drop for StopHere {
    fn drop(&mut self) {
        loop {
            thread::park();
        }
    }
}

#[allow(unsafe_code)]
unsafe extern "C-unwind" {
    // pyo3's says of itself that it never unwinds.
    fn PyObject_CallObject(
        callable: *mut ffi::PyObject,
        arguments: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// What a callable returns.
///
/// # Errors
/// What it raises.
#[allow(unsafe_code)]
pub(super) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: Option<&Bound<'py, PyTuple>>,
) -> PyResult<Bound<'py, PyAny>> {
    let stop = StopHere;
    let arguments = arguments.map_or(ptr::null_mut(), |arguments| arguments.as_ptr());
    // SAFETY: both are held until this returns, by a thread that is attached, and null stands for no
    // arguments; what comes back is null with an error, or a reference of ours.
    let returned = unsafe { PyObject_CallObject(callable.as_ptr(), arguments) };
    mem::forget(stop);
    // SAFETY: see above.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), returned) }
}

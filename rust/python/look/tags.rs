//! Whether dictionaries were changed, told by the number that CPython gives one at every change.
//!
//! Up to 3.12 a dictionary has a number of 64 bits (PEP 509), anew at every change, and always the
//! next one: what was changed after a moment has a larger number than any dictionary had then. It
//! stands after the reference count, the class and the size. Whether all that is so the package tries
//! out before it believes any (`tags.py`).
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Bytes before the number.
const TAG_AT: usize = 3 * size_of::<usize>();

/// The number of a dictionary.
///
/// # Safety
/// It is alive, is a dictionary or of a class made from one, and this thread is attached.
#[inline(always)]
pub(super) unsafe fn tag_of(dict: *mut ffi::PyObject) -> u64 {
    // SAFETY: a dictionary is larger than that; nothing writes to it while this thread is attached.
    unsafe { dict.cast::<u8>().add(TAG_AT).cast::<u64>().read_volatile() }
}

/// The largest number of any dictionary at one moment.
#[derive(Clone, Copy)]
pub(super) struct Moment(u64);

impl Moment {
    /// # Errors
    /// Those of memory.
    pub(super) fn now(py: Python<'_>) -> PyResult<Self> {
        let changed = PyDict::new(py);
        changed.set_item(0, py.None())?;
        Ok(Self(dict_tag(&changed)))
    }
}

/// Dictionaries whose changes are looked for.
#[derive(Default)]
pub(super) struct Dicts(Vec<*mut ffi::PyObject>);

// SAFETY: the pointers are followed only by a thread that is attached.
unsafe impl Send for Dicts {}
// SAFETY: as above.
unsafe impl Sync for Dicts {}

impl Dicts {
    pub(super) fn add(&mut self, dict: &Bound<'_, PyDict>) {
        self.0.push(dict.as_ptr());
    }

    /// Whether none was changed since.
    ///
    /// # Safety
    /// They are alive, and this thread is attached.
    pub(super) unsafe fn are_unchanged_since(&self, moment: Moment) -> bool {
        // SAFETY: the caller vouches for it.
        let tags = self.0.iter().map(|dict| unsafe { tag_of(*dict) });
        // Without a branch for each: they are unchanged nearly always.
        tags.fold(0, u64::max) <= moment.0
    }
}

/// Whether a dictionary wasn't changed since.
pub(super) fn is_unchanged_since(dict: &Bound<'_, PyDict>, moment: Moment) -> bool {
    dict_tag(dict) <= moment.0
}

/// The number of a dictionary, to try out what it does.
#[pyfunction]
#[pyo3(name = "_dict_tag")]
pub(in crate::python) fn dict_tag(dict: &Bound<'_, PyDict>) -> u64 {
    // SAFETY: it is a dictionary, alive as long as the `Bound`.
    unsafe { tag_of(dict.as_ptr()) }
}

//! A walk over the objects that one entry keeps: what is still to be looked at, what was met, and
//! the bytes so far.
//!
//! There is no recursion, so depth doesn't matter. An object that nothing else refers to can't be
//! met twice and needn't be remembered; that is what makes the walk over a list of numbers cheap.

use super::raw::references;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFunction, PyInt, PyList, PyString};
use smallvec::SmallVec;
use std::collections::HashSet;

/// Beyond the limit in bytes, this many objects are looked at before a walk ends.
pub(super) const OBJECTS: u64 = 100_000;

pub(super) const POINTER_BYTES: u64 = 8;
const FLOAT_BYTES: u64 = 24;

/// Where an object's own size is more, its class is asked who says so.
const LARGE_BYTES: u64 = 512;

/// A walk over what one entry holds.
pub(super) struct Walk<'py> {
    pub(super) to_do: Vec<Step<'py>>,
    seen: Seen,
    pub(super) bytes: u64,
    pub(super) looked_at: u64,
    pub(super) most: u64,
}

/// What a walk still has to do.
pub(super) enum Step<'py> {
    Look(Bound<'py, PyAny>),
    /// What was counted from `since` on is at least so much.
    AtLeast {
        since: u64,
        bytes: u64,
    },
}

impl<'py> Walk<'py> {
    /// A walk that may end once there are more than `most` bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { to_do: Vec::new(), seen: Seen::default(), bytes: 0, looked_at: 0, most }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether it is met for the first time.
    pub(super) fn is_new(&mut self, address: usize) -> bool {
        self.seen.insert(address)
    }

    /// What is looked at from now on, until the steps now there go on, is at least so much.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.to_do.push(Step::AtLeast { since: self.bytes, bytes });
    }

    /// Looks at an object next, unless it was met.
    pub(super) fn look_at(&mut self, object: Bound<'py, PyAny>) {
        if self.is_new(object.as_ptr() as usize) {
            self.look_at_known(object);
        }
    }

    /// Looks next at an object that was just found to be new.
    pub(super) fn look_at_known(&mut self, object: Bound<'py, PyAny>) {
        self.to_do.push(Step::Look(object));
    }

    /// Looks at a part; `ours` are the references to it that this walk holds itself.
    pub(super) fn meet(&mut self, part: Bound<'py, PyAny>, ours: isize) -> PyResult<()> {
        // Without a GIL a count may be behind.
        let is_alone = cfg!(not(Py_GIL_DISABLED)) && references(&part) <= ours + 1;
        if !is_alone && !self.is_new(part.as_ptr() as usize) {
            return Ok(());
        }
        self.looked_at += 1;
        match plain_size(&part)? {
            Some(bytes) => self.add(bytes),
            None => self.to_do.push(Step::Look(part)),
        }
        Ok(())
    }

    /// Looks at an object of `size` bytes and at what it refers to.
    pub(super) fn look_at_own(&mut self, object: &Bound<'py, PyAny>, size: u64) -> PyResult<()> {
        if size > LARGE_BYTES && sizes_itself(object)? {
            self.expect(size);
        } else {
            self.add(size);
        }
        self.meet_referents(object)
    }

    /// Looks at all that an object refers to.
    pub(super) fn meet_referents(&mut self, object: &Bound<'py, PyAny>) -> PyResult<()> {
        let referents = referents(object)?;
        if !object.is_instance_of::<PyDict>() {
            // An instance's values lie in memory of their own, which no size tells.
            self.add(POINTER_BYTES * referents.len() as u64);
        }
        referents.iter().try_for_each(|part| self.meet(part, 2))
    }
}

/// Addresses that were met; mostly a handful.
#[derive(Default)]
struct Seen {
    few: SmallVec<[usize; 16]>,
    many: HashSet<usize>,
}

impl Seen {
    fn insert(&mut self, address: usize) -> bool {
        if self.many.is_empty() {
            if self.few.contains(&address) {
                return false;
            }
            if self.few.len() < self.few.inline_size() {
                self.few.push(address);
                return true;
            }
            self.many.extend(self.few.drain(..));
        }
        self.many.insert(address)
    }
}

/// The size of what holds nothing else: the fields of a key, numbers, text.
#[inline]
pub(super) fn plain_size(object: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    if object.is_exact_instance_of::<PyFloat>() {
        return Ok(Some(FLOAT_BYTES));
    }
    if object.is_exact_instance_of::<PyInt>() {
        let bytes = object.extract::<i64>().map(|number| 24 + digits(number) * 4);
        return bytes.or_else(|_| own_size(object)).map(Some);
    }
    if object.is_exact_instance_of::<PyString>() || object.is_exact_instance_of::<PyBytes>() {
        return own_size(object).map(Some);
    }
    if object.is_none() {
        return Ok(Some(16));
    }
    Ok(object.is_exact_instance_of::<PyBool>().then_some(28))
}

/// Digits of 30 bits.
fn digits(number: i64) -> u64 {
    u64::from(64 - number.unsigned_abs().leading_zeros()).div_ceil(30)
}

fn own_size(object: &Bound<'_, PyAny>) -> PyResult<u64> {
    object.call_method0(intern!(object.py(), "__sizeof__"))?.extract()
}

/// `sys.getsizeof`, which knows the headers that `__sizeof__` doesn't.
pub(super) fn size_of(object: &Bound<'_, PyAny>) -> PyResult<u64> {
    static GETSIZEOF: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GETSIZEOF.import(object.py(), "sys", "getsizeof")?.call1((object,))?.extract()
}

fn referents<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    static REFERENTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let referents = REFERENTS.import(object.py(), "gc", "get_referents")?.call1((object,))?;
    Ok(referents.cast_into::<PyList>()?)
}

/// Whether `__sizeof__` is of Python code, and so speaks of more than the object itself.
fn sizes_itself(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let method = object.get_type().getattr(intern!(object.py(), "__sizeof__"))?;
    Ok(method.is_instance_of::<PyFunction>())
}

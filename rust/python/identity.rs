//! What is known about a few rows of objects, found by their identity instead of their value.
//!
//! A backend passes the same op, view, `top_k` and scope over and over, and mostly as the same
//! objects; comparing pointers costs less than hashing them. Only of immutable objects identity says
//! what they are, and only a living object keeps its identity: rows are of exact `str`, `int`,
//! `bytes` and None alone, and hold a reference.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString};

/// Rows that are remembered; a later one replaces the earlier one in its slot.
const SLOTS: usize = 16;

/// A `T` for each of the last few rows of `FIELDS` objects.
pub(super) struct ByIdentity<const FIELDS: usize, T> {
    slots: [Option<Row<FIELDS, T>>; SLOTS],
    /// The slot of the row that was asked for last, and mostly is again.
    last: usize,
}

type Row<const FIELDS: usize, T> = ([Py<PyAny>; FIELDS], T);

impl<const FIELDS: usize, T> Default for ByIdentity<FIELDS, T> {
    fn default() -> Self {
        Self { slots: [const { None }; SLOTS], last: 0 }
    }
}

impl<const FIELDS: usize, T: Copy> ByIdentity<FIELDS, T> {
    /// What was remembered about these very objects.
    #[inline(always)]
    pub(super) fn get(&mut self, row: [&Bound<'_, PyAny>; FIELDS]) -> Option<T> {
        match self.get_at(self.last, row) {
            None => self.find(row),
            value => value,
        }
    }

    #[inline(never)]
    fn find(&mut self, row: [&Bound<'_, PyAny>; FIELDS]) -> Option<T> {
        self.last = slot_of(row);
        self.get_at(self.last, row)
    }

    #[inline(always)]
    fn get_at(&self, slot: usize, row: [&Bound<'_, PyAny>; FIELDS]) -> Option<T> {
        let (known, value) = self.slots[slot % SLOTS].as_ref()?;
        // Without a branch for each: they are the same nearly always.
        let same =
            known.iter().zip(row).fold(true, |same, (known, object)| same & known.is(object));
        same.then_some(*value)
    }

    /// Remembers `value`, if the objects are of classes whose identity says what they are. What is
    /// forgotten for it is returned, to be dropped where nothing is held.
    #[must_use]
    pub(super) fn keep(
        &mut self,
        row: [&Bound<'_, PyAny>; FIELDS],
        value: T,
    ) -> Option<[Py<PyAny>; FIELDS]> {
        if !row.iter().all(|object| is_its_identity(object)) {
            return None;
        }
        let known = row.map(|object| object.clone().unbind());
        self.slots[slot_of(row)].replace((known, value)).map(|(forgotten, _)| forgotten)
    }
}

pub(super) fn is_its_identity(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_none()
}

#[inline]
fn slot_of<const FIELDS: usize>(row: [&Bound<'_, PyAny>; FIELDS]) -> usize {
    // Objects lie at multiples of 16 bytes; each field shifts the ones before it apart.
    let mixed = row
        .iter()
        .fold(0, |mixed: usize, object| mixed.rotate_left(3) ^ (object.as_ptr() as usize >> 4));
    (mixed ^ mixed >> 5) % SLOTS
}

//! Settings as they were: nested dictionaries, lists and sets of what can't be changed.
//!
//! A dictionary is the same while its number is, so what is in it is too; a list or a set is while it
//! has the same objects, which are kept so that no other has their address. Of an object that is made
//! of its attributes (a *record*) its class and its dictionary are looked at. What can be neither
//! looked at nor relied on is given back to whoever asked, as *unclear*.
#![allow(unsafe_code)]

use super::tags::Dicts;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString,
    PyTuple, PyType,
};

/// Containers in containers, at most.
const DEPTH: usize = 24;

/// What is known of settings.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) dicts: Dicts,
    lists: Vec<(Py<PyList>, Vec<Py<PyAny>>)>,
    sets: Vec<(Py<PyAny>, Vec<Py<PyAny>>)>,
    records: Vec<Record>,
    kept: Vec<Py<PyDict>>,
}

struct Record {
    object: Py<PyAny>,
    class: Py<PyType>,
    fields: Py<PyDict>,
}

/// What objects of exactly these classes are made of.
pub(super) struct Classes<'a, 'py> {
    /// Of those whose objects don't change, or are equal to themselves alone.
    pub(super) fixed: &'a [Bound<'py, PyType>],
    /// Of those whose objects are equal if their attributes are.
    pub(super) records: &'a [Bound<'py, PyType>],
}

impl Settings {
    /// Looks at `value` from now on; what is unclear in it is added to `unclear`.
    ///
    /// # Errors
    /// Those of memory.
    pub(super) fn add<'py>(
        &mut self,
        value: &Bound<'py, PyAny>,
        classes: &Classes<'_, 'py>,
        unclear: &Bound<'py, PyList>,
        depth: usize,
    ) -> PyResult<()> {
        if is_fixed(value, classes) {
            return Ok(());
        }
        if depth > DEPTH {
            return unclear.append(value);
        }
        let mut inner: Vec<Bound<'py, PyAny>> = Vec::new();
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            self.add_dict(dict, &mut inner);
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            inner.extend(list.iter());
            self.lists.push((list.clone().unbind(), kept(&inner)));
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            inner.extend(tuple.iter());
        } else if value.is_exact_instance_of::<PySet>()
            || value.is_exact_instance_of::<PyFrozenSet>()
        {
            inner = value.try_iter()?.collect::<PyResult<_>>()?;
            self.sets.push((value.clone().unbind(), kept(&inner)));
        } else if let Some(fields) = fields_of(value, classes) {
            self.add_dict(&fields, &mut inner);
            let class = value.get_type().unbind();
            self.records.push(Record {
                object: value.clone().unbind(),
                class,
                fields: fields.unbind(),
            });
        } else {
            return unclear.append(value);
        }
        inner.iter().try_for_each(|each| self.add(each, classes, unclear, depth + 1))
    }

    fn add_dict<'py>(&mut self, dict: &Bound<'py, PyDict>, inner: &mut Vec<Bound<'py, PyAny>>) {
        self.dicts.add(dict);
        self.kept.push(dict.clone().unbind());
        dict.iter().for_each(|(key, value)| inner.extend([key, value]));
    }

    /// Whether nothing of it was changed, dictionaries apart.
    pub(super) fn holds(&self, py: Python<'_>) -> bool {
        self.lists.iter().all(|(list, items)| are_in_list(list.bind(py), items))
            && self.records.iter().all(|record| record.holds(py))
            && self.sets.iter().all(|(set, items)| are_in_set(set.bind(py), items))
    }

    /// Everything that it keeps.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let lists =
            self.lists.iter().flat_map(|(list, items)| [list.as_any()].into_iter().chain(items));
        let sets = self.sets.iter().flat_map(|(set, items)| [set].into_iter().chain(items));
        let records = self.records.iter().flat_map(|each| [&each.object, each.fields.as_any()]);
        lists.chain(sets).chain(records).chain(self.kept.iter().map(Py::as_any))
    }
}

impl Record {
    fn holds(&self, py: Python<'_>) -> bool {
        let object = self.object.bind(py);
        object.get_type().is(&self.class)
            && dict_of(object).is_some_and(|fields| fields.is(&self.fields))
    }
}

/// Whether an object stays as it is for ever, so far as it is equal to anything else.
fn is_fixed(value: &Bound<'_, PyAny>, classes: &Classes<'_, '_>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyComplex>()
        || is_of(value, classes.fixed)
}

fn fields_of<'py>(
    value: &Bound<'py, PyAny>,
    classes: &Classes<'_, 'py>,
) -> Option<Bound<'py, PyDict>> {
    let fields = is_of(value, classes.records).then(|| dict_of(value))??;
    fields.is_exact_instance_of::<PyDict>().then_some(fields)
}

/// Whether an object is of exactly one of some classes: one derived from them may keep and compare
/// more.
fn is_of(value: &Bound<'_, PyAny>, classes: &[Bound<'_, PyType>]) -> bool {
    let class = value.get_type();
    classes.iter().any(|each| class.is(each))
}

/// The dictionary of an object's attributes, if it has one.
fn dict_of<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    // SAFETY: the object is alive as long as the `Bound`; a new reference or an exception is given.
    let found = unsafe {
        let fields = ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(object.py(), fields)
    };
    found.ok()?.cast_into::<PyDict>().ok()
}

fn kept(objects: &[Bound<'_, PyAny>]) -> Vec<Py<PyAny>> {
    objects.iter().map(|each| each.clone().unbind()).collect()
}

#[inline]
fn are_in_list(list: &Bound<'_, PyList>, items: &[Py<PyAny>]) -> bool {
    list.len() == items.len()
        && items.iter().enumerate().all(|(index, item)| {
            // SAFETY: the index is below the length, and nothing runs that could shorten the list; the
            // borrowed reference is compared only.
            let found = unsafe { ffi::PyList_GetItem(list.as_ptr(), index as ffi::Py_ssize_t) };
            found == item.as_ptr()
        })
}

fn are_in_set(set: &Bound<'_, PyAny>, items: &[Py<PyAny>]) -> bool {
    let Ok(found) = set.try_iter() else { return false };
    let mut known = items.iter();
    for each in found {
        match (each, known.next()) {
            (Ok(each), Some(item)) if each.is(item) => {}
            _ => return false,
        }
    }
    known.next().is_none()
}

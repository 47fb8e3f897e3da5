//! What classes' attributes and names in modules lead to, at one moment.
//!
//! What a class gives for a name is decided by the classes that it is made from, in their order, and
//! by what is in the dictionaries of those. Each is looked at by its bases (CPython puts another tuple
//! there when they are assigned to) and by its dictionary's number.
#![allow(unsafe_code)]

use super::tags::{Moment, is_unchanged_since};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

/// Classes and names.
#[derive(Default)]
pub(super) struct Code {
    classes: Vec<(Py<PyType>, Py<PyAny>)>,
    names: Vec<Names>,
}

/// Names in a dictionary that may get others meanwhile.
struct Names {
    dict: Py<PyDict>,
    values: Vec<(Py<PyString>, Option<Py<PyAny>>)>,
}

impl Code {
    pub(super) fn add_class(&mut self, class: &Bound<'_, PyType>) {
        let bases = bases_of(class);
        // SAFETY: the class keeps its bases, if there are any.
        let bases = unsafe { Bound::from_borrowed_ptr_or_opt(class.py(), bases) };
        let bases = bases.unwrap_or_else(|| class.py().None().into_bound(class.py()));
        self.classes.push((class.clone().unbind(), bases.unbind()));
    }

    /// # Errors
    /// Those of a key's `__eq__`.
    pub(super) fn add_names<'py>(
        &mut self,
        dict: &Bound<'py, PyDict>,
        names: &Bound<'py, PyTuple>,
    ) -> PyResult<()> {
        let values = names
            .iter()
            .map(|name| {
                let name = name.cast_into::<PyString>()?;
                let value = dict.get_item(&name)?.map(Bound::unbind);
                Ok((name.unbind(), value))
            })
            .collect::<PyResult<_>>()?;
        self.names.push(Names { dict: dict.clone().unbind(), values });
        Ok(())
    }

    pub(super) fn holds(&self, py: Python<'_>, moment: Moment) -> bool {
        let have_bases = self.classes.iter().all(|(class, bases)| {
            let found = bases_of(class.bind(py));
            found == bases.as_ptr() || (found.is_null() && bases.is_none(py))
        });
        have_bases && self.names.iter().all(|names| names.holds(py, moment))
    }

    /// Everything that it keeps.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let classes = self.classes.iter().flat_map(|(class, bases)| [class.as_any(), bases]);
        let names = self.names.iter().flat_map(|names| {
            let values = names.values.iter().filter_map(|(_, value)| value.as_ref());
            [names.dict.as_any()].into_iter().chain(values)
        });
        classes.chain(names)
    }
}

impl Names {
    fn holds(&self, py: Python<'_>, moment: Moment) -> bool {
        is_unchanged_since(self.dict.bind(py), moment) || self.have_values(py)
    }

    fn have_values(&self, py: Python<'_>) -> bool {
        let dict = self.dict.bind(py);
        self.values.iter().all(|(name, value)| match (dict.get_item(name), value) {
            (Ok(Some(found)), Some(value)) => found.is(value),
            (Ok(None), None) => true,
            _ => false,
        })
    }
}

/// The tuple of a class's bases; null for none.
fn bases_of(class: &Bound<'_, PyType>) -> *mut ffi::PyObject {
    // SAFETY: it reads a slot of a class, which is alive as long as the `Bound`.
    unsafe { ffi::PyType_GetSlot(class.as_type_ptr(), ffi::Py_tp_bases).cast() }
}

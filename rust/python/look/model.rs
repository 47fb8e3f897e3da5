//! One look at how a model is built.
#![allow(unsafe_code)]

use super::code::Code;
use super::settings::{Classes, Settings};
use super::tags::{Dicts, Moment};
use pyo3::exceptions::PyKeyError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

/// What a look goes over: dictionaries, settings and code, with the tensors that are in them.
///
/// Keeps the dictionaries; tensors are only in those. While no dictionary was changed, a pointer to
/// what was in it is one to what is in it.
#[pyclass(frozen, module = "forwardcache._core", name = "_ModelLook")]
pub(in crate::python) struct ModelLook {
    moment: Moment,
    dicts: Dicts,
    kept: Py<PyTuple>,
    settings: Settings,
    code: Code,
    tensors: Vec<Tensor>,
    unclear: Py<PyList>,
}

/// A dictionary, and what is read there.
type Names<'py> = (Bound<'py, PyDict>, Bound<'py, PyTuple>);

struct Tensor(*mut ffi::PyObject);

// SAFETY: the pointer is followed only by a thread that is attached.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

#[pymethods]
impl ModelLook {
    /// Args:
    ///     dicts: What must not change.
    ///     tensors: Those of ``dicts`` whose values, None apart, are the tensors.
    ///     picked: More tensors, each by its dictionary, one of ``dicts``, and its key there.
    ///     settings: Nested containers that must not change either.
    ///     kinds: Classes of objects that don't change, and of those that are made of attributes.
    ///     code: Classes; then dictionaries and the names that are read there.
    #[new]
    fn new<'py>(
        dicts: Bound<'py, PyTuple>,
        tensors: &Bound<'py, PyTuple>,
        picked: Vec<(Bound<'py, PyDict>, Bound<'py, PyAny>)>,
        settings: &Bound<'py, PyList>,
        kinds: (Vec<Bound<'py, PyType>>, Vec<Bound<'py, PyType>>),
        code: (Vec<Bound<'py, PyType>>, Vec<Names<'py>>),
    ) -> PyResult<Self> {
        let py = dicts.py();
        let mut look = Self {
            // What is changed from here on is found changed.
            moment: Moment::now(py)?,
            dicts: Dicts::default(),
            kept: dicts.clone().unbind(),
            settings: Settings::default(),
            code: Code::default(),
            tensors: Vec::new(),
            unclear: PyList::empty(py).unbind(),
        };
        let classes = Classes { fixed: &kinds.0, records: &kinds.1 };
        let unclear = look.unclear.bind(py).clone();
        for each in settings {
            look.settings.add(&each, &classes, &unclear, 0)?;
        }
        code.0.iter().for_each(|class| look.code.add_class(class));
        code.1.iter().try_for_each(|(dict, names)| look.code.add_names(dict, names))?;
        look.add(&dicts)?;
        look.find(tensors)?;
        picked.iter().try_for_each(|(dict, key)| look.pick(dict, key))?;
        Ok(look)
    }

    /// Settings of which nothing is known: whether they hold, others have to tell.
    #[getter]
    fn unclear(&self, py: Python<'_>) -> Py<PyList> {
        self.unclear.clone_ref(py)
    }

    /// The tensors, if nothing was changed; else None.
    fn unchanged<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        // Made first: to allocate may run a collection, and with it Python code.
        let list = unsafe {
            // SAFETY: this thread is attached; a new reference or an exception is given.
            let list = ffi::PyList_New(self.tensors.len() as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(py, list)?.cast_into_unchecked::<PyList>()
        };
        if !(self.settings.holds(py) && self.code.holds(py, self.moment) && self.have_same_dicts())
        {
            return Ok(None);
        }
        for (index, tensor) in self.tensors.iter().enumerate() {
            // SAFETY: no dictionary was changed, nor has any code run since that was seen, so the
            // object is in its dictionary still, which is kept. The place in the list is free.
            unsafe {
                ffi::Py_INCREF(tensor.0);
                ffi::PyList_SetItem(list.as_ptr(), index as ffi::Py_ssize_t, tensor.0);
            }
        }
        Ok(Some(list))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.kept)?;
        visit.call(&self.unclear)?;
        self.settings.kept().chain(self.code.kept()).try_for_each(|each| visit.call(each))
    }
}

impl ModelLook {
    fn have_same_dicts(&self) -> bool {
        // SAFETY: `kept` and `settings` keep all of them; this thread is attached.
        unsafe {
            self.dicts.are_unchanged_since(self.moment)
                && self.settings.dicts.are_unchanged_since(self.moment)
        }
    }

    fn add(&mut self, dicts: &Bound<'_, PyTuple>) -> PyResult<()> {
        for each in dicts.iter_borrowed() {
            self.dicts.add(&*each.cast::<PyDict>()?);
        }
        Ok(())
    }

    fn find(&mut self, dicts: &Bound<'_, PyTuple>) -> PyResult<()> {
        for each in dicts.iter_borrowed() {
            let dict = each.cast::<PyDict>()?;
            let (mut at, mut value) = (0, std::ptr::null_mut());
            // SAFETY: nothing changes the dictionary meanwhile; the borrowed reference is kept as
            // `unchanged` says.
            while unsafe {
                ffi::PyDict_Next(dict.as_ptr(), &mut at, std::ptr::null_mut(), &mut value) != 0
            } {
                // SAFETY: None lives for ever.
                if value != unsafe { ffi::Py_None() } {
                    self.tensors.push(Tensor(value));
                }
            }
        }
        Ok(())
    }

    fn pick(&mut self, dict: &Bound<'_, PyDict>, key: &Bound<'_, PyAny>) -> PyResult<()> {
        let found = dict.get_item(key)?.ok_or_else(|| PyKeyError::new_err("a tensor is gone"))?;
        self.tensors.push(Tensor(found.as_ptr()));
        Ok(())
    }
}

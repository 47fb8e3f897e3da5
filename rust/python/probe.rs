//! Who asks: the probe's name, which stands in every later event.
//!
//! `set_current_probe` names the probe of all threads; `with inst.probe(name)` names that of one
//! thread or context and comes before it. The second is a `contextvars.ContextVar`, made when it is
//! first used, so that those who never use it don't pay for it.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

use crate::sync::{Mutex, Turns, lock};

pub(super) struct Probes {
    current: Turns<Option<Py<PyString>>>,
    /// Holds `(name,)` inside a `with`, so that None can be told from nothing.
    scoped: PyOnceLock<Py<PyAny>>,
}

impl Probes {
    pub(super) fn new() -> Self {
        Self { current: Turns::new(None), scoped: PyOnceLock::new() }
    }

    pub(super) fn set(&self, _py: Python<'_>, name: Option<Bound<'_, PyString>>) {
        let name = name.map(Bound::unbind);
        let replaced = self.current.with(|current| std::mem::replace(current, name));
        drop(replaced);
    }

    /// The probe's name for a call made now, in this context.
    #[inline]
    pub(super) fn current<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        match self.scoped.get(py) {
            None => Ok(self.of_all_threads(py)),
            Some(variable) => self.in_context(variable.bind(py)),
        }
    }

    #[inline]
    fn of_all_threads<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        self.current.with(|current| current.as_ref().map(|name| name.bind(py).clone()))
    }

    #[cold]
    fn in_context<'py>(
        &self,
        variable: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyString>>> {
        let scoped = variable.call_method1("get", (variable.py().None(),))?;
        match scoped.cast::<PyTuple>() {
            Ok(scoped) => Ok(scoped.get_item(0)?.cast_into().ok()),
            Err(_) => Ok(self.of_all_threads(variable.py())),
        }
    }

    pub(super) fn scope(
        &self,
        py: Python<'_>,
        name: Option<Bound<'_, PyString>>,
    ) -> PyResult<ProbeScope> {
        let variable = self.scoped.get_or_try_init(py, || {
            let class = py.import("contextvars")?.getattr("ContextVar")?;
            class.call1(("forwardcache_probe",)).map(Bound::unbind)
        })?;
        Ok(ProbeScope {
            variable: variable.clone_ref(py),
            name: name.map(Bound::unbind),
            token: Mutex::new(None),
        })
    }
}

/// The context manager that `BackendInstrumentation.probe` returns.
#[pyclass(frozen, module = "forwardcache._core")]
pub(super) struct ProbeScope {
    variable: Py<PyAny>,
    name: Option<Py<PyString>>,
    token: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl ProbeScope {
    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        if lock(&self.token).is_some() {
            return Err(PyRuntimeError::new_err(
                "this probe is already entered: ask for another with probe(name)",
            ));
        }
        let name = self.name.as_ref().map(|name| name.clone_ref(py));
        let token = self.variable.call_method1(py, "set", ((name,),))?;
        *lock(&self.token) = Some(token);
        Ok(())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let token = lock(&self.token).take();
        match token {
            Some(token) => self.variable.call_method1(py, "reset", (token,)).map(drop),
            None => Err(PyRuntimeError::new_err("this probe was not entered")),
        }
    }
}

//! The fast path into `cached`, which nearly every call takes.
//!
//! What pyo3 generates for a method reads any mixture of positional and named arguments and counts
//! that this thread is attached: a third of the instructions of a hit. Calls with five positional
//! arguments, and perhaps `scope`, come in here; all others take the method as it is declared, which
//! also raises the errors of a wrong call.

use super::hashes::OtherFields;
use super::instrumentation::BackendInstrumentation;
use super::key::Field;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyTuple, PyType};
use pyo3::{Borrowed, ffi, intern};
use std::any::Any;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{ptr, slice};

/// `cached` as it is declared.
static DECLARED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Puts the fast path before the method that the class has.
///
/// # Errors
/// Those of the class's attributes.
#[allow(unsafe_code)]
pub(super) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let py = class.py();
    let name = intern!(py, "cached");
    let declared = class.getattr(name)?;
    let signature: String = declared.getattr("__text_signature__")?.extract()?;
    let text: String = declared.getattr("__doc__")?.extract()?;
    let doc = CString::new(format!("cached{signature}\n--\n\n{text}"))?;
    // Both live as long as the class, which is as long as the process.
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: c"cached".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: cached },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.into_raw(),
    }));
    // SAFETY: the definition is that of a function of the kind that its flags say, and stays; the
    // result is a new reference or null with an error set.
    let method = unsafe {
        let method = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(py, method)?
    };
    DECLARED.get_or_init(py, || declared.unbind());
    class.setattr(name, method)
}

/// The arguments of a call; those with names come last.
struct Arguments<'a, 'py> {
    this: Borrowed<'a, 'py, BackendInstrumentation>,
    all: &'a [Field<'a, 'py>],
    names: Option<Borrowed<'a, 'py, PyTuple>>,
}

/// `cached` by the vectorcall protocol: `count` positional arguments at `all`, then one for each of
/// `names`, a tuple or null.
#[allow(unsafe_code)]
unsafe extern "C" fn cached(
    this: *mut ffi::PyObject,
    all: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: whoever calls is attached and holds all that is given here until this returns; the
    // descriptor has asked for an instance of its class; a `Borrowed` is a pointer that isn't null.
    let (py, arguments) = unsafe {
        let py = Python::assume_attached();
        let this = Borrowed::from_ptr(py, this).cast_unchecked();
        let names = Borrowed::from_ptr_or_opt(py, names);
        let names = names.map(|names| names.cast_unchecked::<PyTuple>());
        let named = names.map_or(0, |names| names.len());
        // Without arguments, CPython may give null.
        let all = match count as usize + named {
            0 => &[],
            given => slice::from_raw_parts(all.cast(), given),
        };
        (py, Arguments { this, all, names })
    };
    match catch_unwind(AssertUnwindSafe(|| arguments.call(py))) {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(error)) => raise(error),
        Err(panic) => raise(as_error(panic.as_ref())),
    }
}

/// Also lets go of whatever a call that failed has left to a later one.
#[cold]
fn raise(error: PyErr) -> *mut ffi::PyObject {
    Python::attach(|py| error.restore(py));
    ptr::null_mut()
}

/// A panic, as pyo3 hands one on.
fn as_error(panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    PanicException::new_err(text.unwrap_or("panic from Rust code").to_owned())
}

impl<'py> Arguments<'_, 'py> {
    #[inline(always)]
    fn call(&self, py: Python<'py>) -> PyResult<Py<PyAny>> {
        let (scope, positional) = match (self.names, self.all) {
            (None, all) => (None, all),
            (Some(names), [all @ .., scope]) if is_scope(py, names) => (Some(scope), all),
            _ => return self.call_declared(),
        };
        match positional {
            [op, view_id, prompt, top_k, compute] => {
                let key = OtherFields { op, view_id, top_k, scope: scope.map(|scope| &**scope) };
                #[cfg(take_turns)]
                if let Some(value) = self.this.get().known_hit(py, &key, prompt) {
                    return Ok(value);
                }
                self.this.get().run_cached(py, key, prompt, compute)
            }
            _ => self.call_declared(),
        }
    }

    /// By the method as it is declared, which also raises the errors of a wrong call.
    #[cold]
    fn call_declared(&self) -> PyResult<Py<PyAny>> {
        Python::attach(|py| {
            let named = self.names.map_or(0, |names| names.len());
            let (positional, named) = self.all.split_at(self.all.len() - named);
            let this = [self.this.as_any().as_borrowed()];
            let positional = this.iter().chain(positional).collect::<Vec<_>>();
            let positional = PyTuple::new(py, positional)?;
            let names = self.names.iter().flat_map(|names| names.iter());
            let named = names.zip(named).into_py_dict(py)?;
            let declared = DECLARED.get(py).expect("it was kept when the fast path was installed");
            declared.call(py, positional, Some(&named))
        })
    }
}

/// Whether the only name is `scope`, as the compiler writes it: interned.
#[inline]
fn is_scope(py: Python<'_>, names: Borrowed<'_, '_, PyTuple>) -> bool {
    names.len() == 1 && names.get_borrowed_item(0).is_ok_and(|name| name.is(intern!(py, "scope")))
}

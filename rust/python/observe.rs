//! Lines of a trace to events, a block at a time.

use crate::observe::line::{Fields, NAMES, Value, parse};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};

/// The events of `lines`, each an instance of `kind` whose fields are set without its constructor;
/// None for a line that the slower reader has to judge.
#[pyfunction]
#[pyo3(name = "_parse_trace_lines")]
pub(super) fn parse_trace_lines<'py>(
    lines: &Bound<'py, PyList>,
    kind: &Bound<'py, PyType>,
) -> PyResult<Bound<'py, PyList>> {
    let py = lines.py();
    let names = names(py)?;
    let new = kind.getattr("__new__")?;
    let arguments = PyTuple::new(py, [kind])?;
    let mut texts = Texts::default();
    let events = PyList::empty(py);
    for line in lines {
        let line = line.cast_into::<PyBytes>()?;
        match parse(line.as_bytes()) {
            None => events.append(py.None())?,
            Some(fields) => {
                let event = new.call1(&arguments)?;
                fill(&event, names, &fields, &mut texts)?;
                events.append(event)?;
            }
        }
    }
    Ok(events)
}

fn fill<'py>(
    event: &Bound<'py, PyAny>,
    names: &[Py<PyString>],
    fields: &Fields<'_>,
    texts: &mut Texts<'py>,
) -> PyResult<()> {
    let py = event.py();
    // The class is frozen: its own __setattr__ would refuse.
    let attributes = event.getattr(pyo3::intern!(py, "__dict__"))?;
    let attributes = attributes.cast::<PyDict>()?;
    for (at, value) in fields.iter().enumerate() {
        let Some(value) = value else { continue };
        let name = names[at].bind(py);
        match *value {
            Value::Null => attributes.set_item(name, py.None())?,
            Value::Bool(value) => attributes.set_item(name, value)?,
            Value::Int(value) => attributes.set_item(name, value)?,
            Value::Float(value) => attributes.set_item(name, value)?,
            Value::Text(text) => attributes.set_item(name, texts.of(py, at, text))?,
        }
    }
    Ok(())
}

fn names(py: Python<'_>) -> PyResult<&[Py<PyString>]> {
    static INTERNED: PyOnceLock<Vec<Py<PyString>>> = PyOnceLock::new();
    let make = || Ok::<_, PyErr>(NAMES.iter().map(|name| PyString::intern(py, name).unbind()));
    Ok(INTERNED.get_or_try_init(py, || make().map(Iterator::collect::<Vec<_>>))?.as_slice())
}

/// Which fields' texts mostly repeat from line to line.
const REPEATS: [bool; NAMES.len()] = {
    let mut repeats = [false; NAMES.len()];
    let mut at = 0;
    while at < NAMES.len() {
        repeats[at] = matches!(NAMES[at].as_bytes(), b"probe" | b"view_id" | b"op" | b"run");
        at += 1;
    }
    repeats
};

/// The last text of each field that repeats.
#[derive(Default)]
struct Texts<'py>([Option<(String, Bound<'py, PyString>)>; NAMES.len()]);

impl<'py> Texts<'py> {
    fn of(&mut self, py: Python<'py>, at: usize, text: &str) -> Bound<'py, PyString> {
        if !REPEATS[at] {
            return PyString::new(py, text);
        }
        match &self.0[at] {
            Some((known, object)) if known == text => object.clone(),
            _ => {
                let object = PyString::new(py, text);
                self.0[at] = Some((text.to_owned(), object.clone()));
                object
            }
        }
    }
}

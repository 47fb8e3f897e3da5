//! `TraceWriter`, and events on their way into it.

use super::key::{as_str, integer};
use super::text::Text;
use crate::sync::OnceLock;
use crate::trace::{Event, Lines, Writer};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use std::path::PathBuf;

/// Writes one JSON line an event.
///
/// A line is in the file when the call that wrote it returns. What can't be written (disk full) is
/// counted in `lost` and never raised.
///
/// Args:
///     path: File to append to; its folders are made and it is there at once. None: writes nothing.
///
/// Raises:
///     OSError: the file can't be opened.
#[pyclass(frozen, subclass, weakref, module = "forwardcache._core")]
#[derive(Default)]
pub(super) struct TraceWriter {
    /// Opened by `__init__`, which a subclass calls with arguments of its own choice.
    opened: OnceLock<Opened>,
}

#[derive(Default)]
struct Opened {
    writer: Option<Writer>,
    path: Option<PathBuf>,
}

impl Opened {
    fn open(path: Option<PathBuf>) -> PyResult<Self> {
        let writer = path.as_ref().map(|path| Writer::open(path)).transpose();
        let writer = writer.map_err(|error| {
            // With the number first, Python raises FileNotFoundError, PermissionError and so on.
            let reason = error.to_string();
            match error.raw_os_error() {
                Some(number) => PyOSError::new_err((number, reason, path.clone())),
                None => PyOSError::new_err(reason),
            }
        })?;
        Ok(Self { writer, path })
    }
}

impl TraceWriter {
    pub(super) fn open(path: Option<PathBuf>) -> PyResult<Self> {
        Ok(Self { opened: OnceLock::from(Opened::open(path)?) })
    }

    #[inline]
    fn writer(&self) -> Option<&Writer> {
        self.opened.get().and_then(|opened| opened.writer.as_ref())
    }

    /// Whether an event would be written.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.writer().is_some()
    }

    pub(super) fn shut(&self) {
        if let Some(writer) = self.writer() {
            writer.close();
        }
    }

    /// Writes lines, with the interpreter free meanwhile.
    pub(super) fn append(&self, py: Python<'_>, lines: &Lines) {
        if let Some(writer) = self.writer() {
            py.detach(|| writer.write(lines));
        }
    }
}

#[pymethods]
impl TraceWriter {
    /// Takes whatever a subclass's own `__init__` takes; see `__init__`.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "(path=None)")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    #[pyo3(signature = (path=None))]
    fn __init__(&self, path: Option<PathBuf>) -> PyResult<()> {
        let again = |_| PyRuntimeError::new_err("this writer has a file: make another one");
        self.opened.set(Opened::open(path)?).map_err(again)
    }

    /// The file, None if nothing is written.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.opened.get().and_then(|opened| opened.path.clone())
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.writer().is_some_and(Writer::is_closed)
    }

    /// Events that could not be written.
    #[getter]
    fn lost(&self) -> u64 {
        self.writer().map_or(0, Writer::lost)
    }

    /// Writes an event: any object with the eight fields of `TraceEvent` as attributes.
    ///
    /// Does nothing without a path or after `close`.
    ///
    /// Raises:
    ///     AttributeError, TypeError: a field is missing or has another type.
    fn write(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.writer().is_none_or(Writer::is_closed) {
            return Ok(());
        }
        let mut lines = Lines::default();
        push_object(&mut lines, event)?;
        self.append(event.py(), &lines);
        Ok(())
    }

    /// Every line is already in the file; kept for those who flush.
    fn flush(&self) {}

    /// Closes the file; a second call does nothing.
    fn close(&self) {
        self.shut();
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.shut();
    }
}

/// Adds the event that an object describes by its attributes.
fn push_object(lines: &mut Lines, event: &Bound<'_, PyAny>) -> PyResult<()> {
    let field = |name: &str| event.getattr(name);
    let probe = field("probe")?;
    let probe = if probe.is_none() { None } else { Some(as_str(&probe, "probe")?) };
    let probe = probe.map(Text::of).transpose()?;
    let (view_id, label, op) = (field("view_id")?, field("prompt_hash")?, field("op")?);
    let view_id = Text::of(as_str(&view_id, "view_id")?)?;
    let label = Text::of(as_str(&label, "prompt_hash")?)?;
    let op = Text::of(as_str(&op, "op")?)?;
    lines.push(&Event {
        ts: field("ts")?.extract()?,
        probe: probe.as_ref().map(Text::as_bytes),
        view_id: view_id.as_bytes(),
        prompt_hash: label.as_bytes(),
        top_k: integer(&field("top_k")?),
        op: op.as_bytes(),
        wall_ms: field("wall_ms")?.extract()?,
        hit: field("hit")?.is_truthy()?,
        waited: false,
        key: None,
        error: None,
    });
    Ok(())
}

/// The name of an exception's class, as the trace gives it.
pub(super) fn error_name(py: Python<'_>, error: &PyErr) -> PyResult<Py<PyString>> {
    Ok(error.get_type(py).qualname()?.unbind())
}

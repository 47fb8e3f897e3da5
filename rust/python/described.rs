//! An event that an object describes by its attributes.

use super::key::as_str;
use super::known::KnownNames;
use super::text::Text;
use crate::trace::{Batch, NameId, PromptHash, Record, Run, writer::this_thread};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

/// The object, and the run that takes its event.
pub(super) struct Described<'a, 'py> {
    known: &'a KnownNames,
    run: Run<'a>,
    event: &'a Bound<'py, PyAny>,
    has_further: bool,
}

impl<'a, 'py> Described<'a, 'py> {
    pub(super) fn new(
        known: &'a KnownNames,
        run: Run<'a>,
        event: &'a Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        // The class with the eight fields has no others, and asking for what isn't there is slow.
        let has_further = !event.get_type().is(event_class(event.py())?);
        Ok(Self { known, run, event, has_further })
    }

    /// The event; None if a text of it can't be written down.
    ///
    /// # Errors
    /// A field is missing or has another type.
    pub(super) fn record(&self) -> PyResult<Option<Record>> {
        let py = self.event.py();
        let has_probe = !self.field(intern!(py, "probe"))?.is_none();
        let probe = has_probe.then(|| self.text(intern!(py, "probe"))).transpose()?;
        let error = self.further(intern!(py, "error"))?;
        let error = error.map(|_| self.text(intern!(py, "error"))).transpose()?;
        let view_id = self.text(intern!(py, "view_id"))?;
        let op = self.text(intern!(py, "op"))?;
        let prompt_hash = self.prompt_hash()?;
        let top_k = self.known.top_k(self.run, &self.field(intern!(py, "top_k"))?);
        let (ts, wall_ms) = (self.field(intern!(py, "ts"))?, self.field(intern!(py, "wall_ms"))?);
        let (ts, wall_ms) = (ts.extract()?, wall_ms.extract()?);
        let hit = self.field(intern!(py, "hit"))?.is_truthy()?;
        let key = self.further(intern!(py, "key"))?.and_then(|key| hex_number(&key));
        let bytes = self.further(intern!(py, "bytes"))?;
        let bytes = bytes.map(|bytes| bytes.extract()).transpose()?;
        let waited = self.further(intern!(py, "waited"))?;
        let waited = waited.is_some_and(|waited| waited.is_truthy().unwrap_or(false));
        let batch = self.batch()?;
        let (Some(prompt_hash), Some(top_k)) = (prompt_hash, top_k) else {
            return Ok(None);
        };
        if view_id.is_none() || op.is_none() || probe == Some(None) || error == Some(None) {
            return Ok(None);
        }
        Ok(Some(Record {
            ts,
            probe: probe.flatten(),
            view_id,
            prompt_hash,
            top_k,
            op,
            wall_ms,
            hit,
            thread: this_thread(),
            key,
            batch,
            bytes,
            error: error.flatten(),
            waited,
            lost: None,
        }))
    }

    fn field(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.event.getattr(name)
    }

    /// A field that only some events have; None if it is not there or None.
    fn further(&self, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let found = if self.has_further { self.event.getattr_opt(name)? } else { None };
        Ok(found.filter(|value| !value.is_none()))
    }

    fn text(&self, name: &Bound<'py, PyString>) -> PyResult<Option<NameId>> {
        let value = self.field(name)?;
        as_str(&value, &name.to_string_lossy())?;
        self.known.name(self.event.py(), self.run, &value)
    }

    fn prompt_hash(&self) -> PyResult<Option<PromptHash>> {
        let value = self.field(intern!(self.event.py(), "prompt_hash"))?;
        let text = Text::of(as_str(&value, "prompt_hash")?)?;
        let text = text.as_bytes();
        Ok(PromptHash::inline(text).or_else(|| self.run.name(text).map(PromptHash::Name)))
    }

    fn batch(&self) -> PyResult<Option<Batch>> {
        let py = self.event.py();
        let (id, size) =
            (self.further(intern!(py, "batch"))?, self.further(intern!(py, "batch_size"))?);
        let wall_ms = self.further(intern!(py, "batch_wall_ms"))?;
        let (Some(id), Some(size), Some(wall_ms)) = (id, size, wall_ms) else {
            return Ok(None);
        };
        Ok(Some(Batch { id: id.extract()?, size: size.extract()?, wall_ms: wall_ms.extract()? }))
    }
}

/// `TraceEvent`.
pub(super) fn event_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "forwardcache._event", "TraceEvent")
}

fn hex_number(text: &Bound<'_, PyAny>) -> Option<u64> {
    let text = text.extract::<String>().ok()?;
    u64::from_str_radix(&text, 16).ok()
}

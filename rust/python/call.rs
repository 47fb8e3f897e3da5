//! One call of `cached`: look up, compute if need be, count, and write down what happened.

use super::key::{Field, Query, check_prompt};
use super::parts::{Counts, Found, Outcome, Parts, Source};
use super::probe::Probes;
use super::trace::error_name;
use crate::clock::{self, Ticks};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString, PyType};

/// The arguments that make a call's keys, beside its prompts.
pub(super) struct Key<'a, 'py> {
    pub(super) op: &'a Bound<'py, PyAny>,
    pub(super) view_id: &'a Bound<'py, PyAny>,
    pub(super) top_k: &'a Bound<'py, PyAny>,
    pub(super) scope: Option<&'a Bound<'py, PyAny>>,
}

/// A call under way, with the parts it works on from its beginning to its end.
pub(super) struct Call<'a, 'py> {
    pub(super) py: Python<'py>,
    pub(super) parts: &'a Parts,
    probes: &'a Probes,
    key: Key<'a, 'py>,
    started: Ticks,
}

impl<'a, 'py> Call<'a, 'py> {
    /// # Errors
    /// `TypeError` if `scope` is not bytes.
    #[inline(always)]
    pub(super) fn begin(
        py: Python<'py>,
        parts: &'a Parts,
        probes: &'a Probes,
        key: Key<'a, 'py>,
    ) -> PyResult<Self> {
        let started = clock::now();
        let scope = checked_scope(key.scope)?;
        let key = Key { scope, ..key };
        Ok(Self { py, parts, probes, key, started })
    }

    /// Seconds since the call began.
    #[inline]
    pub(super) fn elapsed_s(&self) -> f64 {
        self.started.elapsed_s()
    }

    /// Whether events are wanted.
    #[inline]
    pub(super) fn is_traced(&self) -> bool {
        self.parts.trace.is_on()
    }

    /// Runs `use_query` with the query for one prompt.
    #[inline]
    pub(super) fn with_query<R>(
        &self,
        prompt: &Bound<'py, PyAny>,
        use_query: impl FnOnce(&Query<'_, 'py>) -> PyResult<R>,
    ) -> PyResult<R> {
        let Key { op, view_id, top_k, scope } = self.key;
        let fields = [op, view_id, prompt, top_k, scope.unwrap_or(top_k)];
        let fields = fields.map(|field| -> Field<'_, 'py> { field.as_borrowed() });
        let count = if scope.is_some() { 5 } else { 4 };
        use_query(&Query::of_fields(self.py, &fields[..count])?)
    }

    /// The value of `prompt`: cached, or computed once and stored.
    #[inline]
    pub(super) fn run(
        &self,
        prompt: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.with_query(prompt, |query| {
            match self.parts.cache.get(self.py, query, self.is_traced())? {
                Some(found) => self.hit(query, found),
                None => {
                    check_prompt(prompt)?;
                    self.compute(query, compute)
                }
            }
        })
    }

    #[inline]
    fn hit(&self, query: &Query<'_, '_>, found: Found) -> PyResult<Py<PyAny>> {
        let wall_s = self.elapsed_s();
        self.parts.stats.add_hit(self.py, wall_s)?;
        if self.is_traced() {
            let name = query.name(found.key.as_ref())?;
            self.write(&[Outcome { name, wall_s, hit: true }], None)?;
        }
        Ok(found.value)
    }

    fn compute(&self, query: &Query<'_, '_>, compute: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let key = query.store();
        let name = self.is_traced().then(|| key.name(self.py)).transpose()?;
        let computed = compute.call0().and_then(refuse_coroutine);
        let wall_s = self.elapsed_s();
        let outcome = name.map(|name| Outcome { name, wall_s, hit: false });
        let counts = Counts { misses: 1, wall_s, ..Counts::default() };
        match computed {
            Ok(value) => {
                let value = value.unbind();
                let kept = value.clone_ref(self.py);
                self.parts.cache.put(self.py, query, key, kept)?;
                self.parts.stats.add(self.py, Counts { passes: 1, ..counts })?;
                self.write(outcome.as_slice(), None)?;
                Ok(value)
            }
            Err(error) => {
                self.failed(counts, outcome.as_slice(), &error)?;
                Err(error)
            }
        }
    }

    /// Counts and writes down a computation that raised; `counts.misses` prompts have no value.
    pub(super) fn failed(
        &self,
        counts: Counts,
        outcomes: &[Outcome],
        error: &PyErr,
    ) -> PyResult<()> {
        let failed = counts.misses;
        self.parts.stats.add(self.py, Counts { failed, ..counts })?;
        let kind = error_name(self.py, error)?;
        self.write(outcomes, Some(kind.bind(self.py)))
    }

    /// Writes one event an outcome, under the probe of this context.
    pub(super) fn write(
        &self,
        outcomes: &[Outcome],
        error: Option<&Bound<'_, PyString>>,
    ) -> PyResult<()> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let Key { op, view_id, top_k, .. } = self.key;
        let probe = self.probes.current(self.py)?;
        let source = Source { probe, op, view_id, top_k };
        self.parts.trace.write(&source, outcomes, error)
    }
}

/// `scope` as part of the key: nothing if it is not given or empty.
#[inline]
fn checked_scope<'a, 'py>(
    scope: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<Option<&'a Bound<'py, PyAny>>> {
    let Some(scope) = scope else {
        return Ok(None);
    };
    let bytes = scope.cast::<PyBytes>().map_err(|_| {
        PyTypeError::new_err(format!("scope must be bytes, not {}", scope.get_type()))
    })?;
    Ok((!bytes.as_bytes().is_empty()).then_some(scope))
}

/// A coroutine would be cached instead of its result, and could be awaited only once.
pub(super) fn refuse_coroutine(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    static COROUTINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = value.py();
    let class = COROUTINE.import(py, "types", "CoroutineType")?;
    if !value.get_type().is(class) {
        return Ok(value);
    }
    value.call_method0("close")?;
    Err(PyTypeError::new_err("compute returned a coroutine: await the value first and cache that"))
}

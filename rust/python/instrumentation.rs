//! `BackendInstrumentation`: the one way through which a backend scores.

use super::batch;
use super::cache::ForwardCache;
use super::call::Call;
use super::flight::PyFlights;
use super::hashes::{Hashes, OtherFields};
use super::invalidate::Pattern;
use super::limits::{MaxBytes, MaxSize};
use super::parts::{Part, Parts};
use super::probe::{ProbeScope, Probes};
use super::slot::Slot;
use super::stats::BackendStats;
use super::trace::{DEFAULT_INTERVAL_S, DEFAULT_JOURNAL_EVENTS, Opening, TraceWriter};
use super::weigh::Weigher;
use crate::sync::OnceLock;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyList, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};
use std::path::PathBuf;

/// Cache, trace and statistics under the scoring calls of a backend.
///
/// `cache`, `trace` and `stats` can be replaced from outside, also by any object with the same
/// methods; the next call uses the object assigned.
///
/// Args:
///     cache_maxsize: Most values kept; None for no limit.
///     cache_max_bytes: Most bytes kept, of values and their prompts; None for no limit.
///     trace_path: File that gets one JSON line per event; None for no trace. See `TraceWriter`.
///     trace_salt: Is hashed before each prompt for its `prompt_hash`; see `TraceWriter`.
///     flight_timeout: Seconds to wait for another thread that computes the same key, before
///         computing it as well.
///
/// Raises:
///     ValueError: a limit is not positive.
///     OSError: the trace can't be opened.
#[pyclass(frozen, subclass, weakref, dict, module = "forwardcache._core")]
pub(super) struct BackendInstrumentation {
    parts: Slot<Parts>,
    probes: Probes,
    hashes: Hashes,
    /// Made by `__init__`, which a subclass calls with arguments of its own choice.
    flights: OnceLock<PyFlights>,
}

const DEFAULT_FLIGHT_TIMEOUT_S: f64 = 60.0;

impl BackendInstrumentation {
    #[inline]
    fn flights(&self) -> &PyFlights {
        self.flights.get_or_init(|| {
            PyFlights::new(DEFAULT_FLIGHT_TIMEOUT_S).expect("the default is positive")
        })
    }

    /// What `cached` does, by whichever way it was called.
    #[inline(always)]
    pub(super) fn run_cached<'py>(
        &self,
        py: Python<'py>,
        key: OtherFields<'_, 'py>,
        prompt: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let parts = self.parts.load(py);
        let tools = (self.flights(), &self.probes, &self.hashes);
        Call::with(py, parts.get(), tools, key, false, |call| call.run(prompt, compute))
    }

    /// The value of a call that is a hit on the very objects of an entry whose place is known.
    #[cfg(take_turns)]
    #[inline(always)]
    pub(super) fn known_hit<'py>(
        &self,
        py: Python<'py>,
        key: &OtherFields<'_, 'py>,
        prompt: &Bound<'py, PyAny>,
    ) -> Option<Py<PyAny>> {
        // Not held: nobody can replace the parts meanwhile.
        // The prompt of an entry was hashed once: a fresh one is none.
        self.hashes.kept(prompt)?;
        self.parts.visit(|parts| parts.get().known_hit(py, key, prompt))
    }

    /// Replaces some parts; calls under way go on with those they began with.
    fn replace(&self, py: Python<'_>, change: impl Fn(&mut Parts)) -> PyResult<()> {
        loop {
            let old = self.parts.load(py);
            let mut parts = old.get().clone_ref(py);
            change(&mut parts);
            if self.parts.replace(py, &old, Py::new(py, parts)?) {
                return Ok(());
            }
        }
    }
}

#[pymethods]
impl BackendInstrumentation {
    /// Takes whatever a subclass's own `__init__` takes; see `__init__`.
    #[new]
    #[pyo3(
        signature = (*_arguments, **_keywords),
        text_signature = "(*, cache_maxsize=256, cache_max_bytes=None, trace_path=None, \
                          trace_salt=None, flight_timeout=60.0)"
    )]
    fn new(
        py: Python<'_>,
        _arguments: &Bound<'_, PyTuple>,
        _keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let parts = Parts {
            cache: Part::Native(Py::new(py, ForwardCache::default())?),
            trace: Part::Native(Py::new(py, TraceWriter::default())?),
            stats: Part::Native(Py::new(py, BackendStats::default())?),
        };
        Ok(Self {
            parts: Slot::new(Py::new(py, parts)?),
            probes: Probes::new(),
            hashes: Hashes::new(py)?,
            flights: OnceLock::new(),
        })
    }

    #[pyo3(signature = (
        *, cache_maxsize=MaxSize::DEFAULT, cache_max_bytes=MaxBytes::NO_LIMIT, trace_path=None,
        trace_salt=None, flight_timeout=DEFAULT_FLIGHT_TIMEOUT_S,
    ))]
    fn __init__(
        &self,
        py: Python<'_>,
        cache_maxsize: MaxSize,
        cache_max_bytes: MaxBytes,
        trace_path: Option<PathBuf>,
        trace_salt: Option<Vec<u8>>,
        flight_timeout: f64,
    ) -> PyResult<()> {
        let flights = PyFlights::new(flight_timeout)?;
        let again = |_| PyRuntimeError::new_err("this instrumentation is in use: make another one");
        let cache = ForwardCache::with_limits(cache_maxsize, cache_max_bytes, Weigher::Default);
        let opening = Opening {
            path: trace_path,
            interval_s: DEFAULT_INTERVAL_S,
            fsync: false,
            journal_events: DEFAULT_JOURNAL_EVENTS,
            salt: trace_salt,
        };
        let trace = Py::new(py, py.detach(|| TraceWriter::open(opening))?)?;
        let cache = Py::new(py, cache)?;
        self.flights.set(flights).map_err(again)?;
        self.replace(py, |parts| {
            parts.cache = Part::Native(cache.clone_ref(py));
            parts.trace = Part::Native(trace.clone_ref(py));
        })
    }

    /// The cache: a `ForwardCache`, or whatever has its `get` and `put`.
    #[getter]
    fn cache(&self, py: Python<'_>) -> Py<PyAny> {
        self.parts.load(py).get().cache.as_object().clone_ref(py)
    }

    #[setter]
    fn set_cache(&self, cache: &Bound<'_, PyAny>) -> PyResult<()> {
        self.replace(cache.py(), |parts| parts.cache = Part::of(cache.clone()))
    }

    /// The trace: a `TraceWriter`, or whatever has its `write`.
    #[getter]
    fn trace(&self, py: Python<'_>) -> Py<PyAny> {
        self.parts.load(py).get().trace.as_object().clone_ref(py)
    }

    #[setter]
    fn set_trace(&self, trace: &Bound<'_, PyAny>) -> PyResult<()> {
        let before = self.parts.load(trace.py());
        self.replace(trace.py(), |parts| parts.trace = Part::of(trace.clone()))?;
        if let Part::Native(replaced) = &before.get().trace {
            replaced.get().flush_now(trace.py());
        }
        Ok(())
    }

    /// The statistics: a `BackendStats`, or whatever has its fields.
    #[getter]
    fn stats(&self, py: Python<'_>) -> Py<PyAny> {
        self.parts.load(py).get().stats.as_object().clone_ref(py)
    }

    #[setter]
    fn set_stats(&self, stats: &Bound<'_, PyAny>) -> PyResult<()> {
        self.replace(stats.py(), |parts| parts.stats = Part::of(stats.clone()))
    }

    /// Labels later events of every thread with a probe's name.
    ///
    /// Args:
    ///     name: The probe; None takes the label away.
    #[pyo3(signature = (name))]
    fn set_current_probe(&self, py: Python<'_>, name: Option<Bound<'_, PyString>>) {
        self.probes.set(py, name);
    }

    /// Labels the events of this thread or context while the `with` lasts; comes before
    /// `set_current_probe`.
    ///
    /// Args:
    ///     name: The probe; None for events without one.
    ///
    /// Returns:
    ///     A context manager; one `with` at a time may enter it.
    #[pyo3(signature = (name))]
    fn probe(&self, py: Python<'_>, name: Option<Bound<'_, PyString>>) -> PyResult<ProbeScope> {
        self.probes.scope(py, name)
    }

    /// Returns the cached value, or runs `compute()` once and stores what it gives.
    ///
    /// Of several threads that miss one key one computes; the others wait for it, for at most
    /// `flight_timeout`, and count as hits. Either way one event goes to the trace, and the time into
    /// `scoring_wall_s` (seconds; that of a wait into `wait_s`).
    ///
    /// Args:
    ///     op: The scoring operation.
    ///     view_id: The view, as it is called in the trace.
    ///     prompt: The text, or a tuple of texts. All of it decides about a hit.
    ///     top_k: The number of tokens asked for.
    ///     compute: Gives the value. If it raises, the exception passes through, nothing is stored,
    ///         and a later call computes again.
    ///     scope: Whatever else decides the value (identity of the weights, exact parameters of the
    ///         view): a part of the key, not of the trace.
    ///
    /// Returns:
    ///     What `compute` gave, now or before: the same object for every caller.
    ///
    /// Raises:
    ///     RuntimeError: `compute` asks for its own key.
    ///     TypeError: `compute` returned a coroutine; prompt or scope is of another type.
    #[pyo3(
        signature = (op, view_id, prompt, top_k, compute, *, scope=None),
        text_signature = "($self, op, view_id, prompt, top_k, compute, *, scope=b'')"
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature is the contract's")]
    fn cached<'py>(
        &self,
        py: Python<'py>,
        op: &Bound<'py, PyAny>,
        view_id: &Bound<'py, PyAny>,
        prompt: &Bound<'py, PyAny>,
        top_k: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
        scope: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.run_cached(py, OtherFields { op, view_id, top_k, scope }, prompt, compute)
    }

    /// Looks every prompt up, then calls `compute_misses(indices)` once with the ascending indices
    /// of those to compute; returns the values in the order of the prompts.
    ///
    /// A prompt that stands twice is computed once. Without a miss, `compute_misses` isn't called; it
    /// is called again only for what another thread was computing and failed at. One event per prompt
    /// goes to the trace: the hits, then the misses, each with its share of the batch's time.
    ///
    /// Args:
    ///     op: The scoring operation.
    ///     view_id: The view, as it is called in the trace.
    ///     prompts: The texts, each as in `cached`.
    ///     top_k: The number of tokens asked for.
    ///     compute_misses: Gives one value an index, in the order of the indices. If it raises,
    ///         the exception passes through and nothing is stored.
    ///     scope: As in `cached`.
    ///
    /// Returns:
    ///     One value per prompt.
    ///
    /// Raises:
    ///     RuntimeError: `compute_misses` returned another number of values: a backend bug.
    ///     TypeError: as in `cached`, or `prompts` is a single `str`.
    #[pyo3(
        signature = (op, view_id, prompts, top_k, compute_misses, *, scope=None),
        text_signature = "($self, op, view_id, prompts, top_k, compute_misses, *, scope=b'')"
    )]
    #[expect(clippy::too_many_arguments, reason = "the signature is the contract's")]
    fn cached_batch<'py>(
        &self,
        py: Python<'py>,
        op: &Bound<'py, PyAny>,
        view_id: &Bound<'py, PyAny>,
        prompts: &Bound<'py, PyAny>,
        top_k: &Bound<'py, PyAny>,
        compute_misses: &Bound<'py, PyAny>,
        scope: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let parts = self.parts.load(py);
        let key = OtherFields { op, view_id, top_k, scope };
        let tools = (self.flights(), &self.probes, &self.hashes);
        Call::with(py, parts.get(), tools, key, true, |call| {
            batch::run(call, prompts, compute_misses)
        })
    }

    /// Drops the cached values of a view, of an op, of both together, or all.
    ///
    /// A computation that began before does not put its value back, and whoever asks from now on does
    /// not join it. A cache of another class needs a method `invalidate(view_id=None, *, op=None)`.
    ///
    /// Args:
    ///     view_id: The view, as it is called in the trace; None for every view.
    ///     op: The scoring operation; None for every op.
    ///
    /// Returns:
    ///     How many values were dropped.
    ///
    /// Raises:
    ///     TypeError: a cache of another class has no such method.
    #[pyo3(signature = (view_id=None, *, op=None))]
    fn invalidate<'py>(
        &self,
        py: Python<'py>,
        view_id: Option<Bound<'py, PyString>>,
        op: Option<Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.parts.load(py).get().cache {
            Part::Native(cache) => {
                let pattern = Pattern { op: op.as_ref(), view_id: view_id.as_ref() };
                Ok(cache.get().invalidate(py, &pattern)?.into_pyobject(py)?.into_any())
            }
            Part::Foreign(cache) => {
                let method = cache.bind(py).getattr_opt(intern!(py, "invalidate"))?;
                let method = method.ok_or_else(|| {
                    PyTypeError::new_err("the assigned cache has no method invalidate")
                })?;
                method.call((view_id,), Some(&[("op", op)].into_py_dict(py)?))
            }
        }
    }

    /// What was done for each op and view, and what the cache holds for them: a `Report`.
    ///
    /// Raises:
    ///     TypeError: `stats` was replaced by an object that is no `BackendStats`.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let parts = self.parts.load(py);
        let stats = parts.get().stats.as_object().bind(py);
        let stats = stats.cast::<BackendStats>().map_err(|_| {
            PyTypeError::new_err(format!("report needs a BackendStats, not {}", stats.get_type()))
        })?;
        let held = match &parts.get().cache {
            Part::Native(cache) => cache.get().held(py)?,
            Part::Foreign(_) => Vec::new(),
        };
        let report = py.import("forwardcache._figures")?.getattr("Report")?;
        report.call_method1("of", (stats.call_method0("snapshot")?, held))
    }

    /// The figures of `report` as Prometheus text, for an endpoint that is scraped.
    ///
    /// Hits and lookups are both counted, so a rate is a quotient of two counters. Times are in seconds;
    /// `op` and `view` are labels.
    ///
    /// Raises:
    ///     TypeError: `stats` was replaced by an object that is no `BackendStats`.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let prometheus = py.import("forwardcache.observe.metrics")?;
        prometheus.getattr("prometheus_text")?.call1((self.report(py)?,))
    }

    /// Closes the trace; a second call does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match &self.parts.load(py).get().trace {
            Part::Native(trace) => {
                trace.get().shut(py)?;
            }
            Part::Foreign(trace) => {
                if let Some(close) = trace.bind(py).getattr_opt(intern!(py, "close"))? {
                    close.call0()?;
                }
            }
        }
        Ok(())
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.flights.get().map_or(Ok(()), |flights| flights.traverse(&visit))?;
        self.parts.visit(|parts| visit.call(parts))
    }
}

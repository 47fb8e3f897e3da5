//! `BackendStats`: counters that look like a dataclass.

use super::figures::{call_stats, model, sums};
use super::op_counters::{Named, OpCounters};
use crate::stats::{CallFigures, Counter, Stats};
use crate::sync::Stripes;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use std::iter;

/// What a backend has done: counts, and seconds spent scoring.
///
/// Every field can be read and written. Counting is exact from any number of threads.
///
/// Args:
///     cache_hits: Lookups that found a value.
///     cache_misses: Lookups that found none.
///     forward_passes: Computations that gave a value.
///     scoring_wall_s: Time spent in lookups and computations, in seconds. The part of hits is an
///         estimate without bias: the first is timed, then one in 16, drawn at random, which counts
///         16 times. Misses, batches and hits with a trace are timed each.
///     batches_sent: Batches handed to a computation.
///     batched_prompts: Prompts in those batches.
///     max_batch_size: The largest of them, in prompts.
#[pyclass(frozen, subclass, weakref, dict, module = "forwardcache._core")]
#[derive(Default)]
pub(super) struct BackendStats {
    pub(super) figures: Stripes<Figures>,
}

/// What was counted, by some of the threads where they don't take turns.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) stats: Stats,
    pub(super) op_counters: OpCounters,
}

/// The field names in positional order.
const FIELDS: [&str; 7] = [
    "cache_hits",
    "cache_misses",
    "forward_passes",
    "scoring_wall_s",
    "batches_sent",
    "batched_prompts",
    "max_batch_size",
];

impl BackendStats {
    /// Adds each part of `other` to what is first here, or takes it away.
    fn combine(
        &self,
        py: Python<'_>,
        other: &Self,
        sums: fn(&Stats, &Stats),
        lines: fn(&mut CallFigures, &CallFigures),
    ) -> PyResult<()> {
        let mine = self.figures.first();
        other.figures.iter().try_for_each(|theirs| {
            sums(&mine.stats, &theirs.stats);
            mine.op_counters.combine(py, &theirs.op_counters, lines)
        })
    }

    fn plus(self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        self.combine(py, other, Stats::add, CallFigures::add)?;
        Ok(self)
    }

    /// The sums of all threads.
    fn sums(&self) -> Stats {
        let sums = Stats::default();
        self.figures.iter().for_each(|figures| sums.add(&figures.stats));
        sums
    }

    /// The sums of all threads, ops and views.
    fn total(&self) -> CallFigures {
        let mut total = CallFigures::default();
        self.figures.iter().for_each(|figures| total.add(&figures.op_counters.total()));
        total
    }

    /// The figures of each op and view.
    fn lines(&self, py: Python<'_>) -> PyResult<Vec<Named>> {
        Ok(self.snapshot(py)?.figures.first().op_counters.lines(py))
    }

    /// Gives a field a value, by `set`: the first has it, the others have nothing.
    fn replace<V: Copy + Default>(&self, value: V, set: fn(&Stats, V)) {
        let values = iter::once(value).chain(iter::repeat(V::default()));
        self.figures.iter().zip(values).for_each(|(figures, value)| set(&figures.stats, value));
    }

    fn ratio(part: u64, whole: u64) -> f64 {
        if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
    }

    fn counts(&self) -> [u64; 6] {
        let stats = self.sums();
        [
            &stats.cache_hits,
            &stats.cache_misses,
            &stats.forward_passes,
            &stats.batches_sent,
            &stats.batched_prompts,
            &stats.max_batch_size,
        ]
        .map(Counter::get)
    }
}

#[pymethods]
impl BackendStats {
    /// Takes whatever a subclass's own `__init__` takes; see `__init__`.
    #[new]
    #[pyo3(
        signature = (*_arguments, **_keywords),
        text_signature = "(cache_hits=0, cache_misses=0, forward_passes=0, scoring_wall_s=0.0, \
                          batches_sent=0, batched_prompts=0, max_batch_size=0)"
    )]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    #[pyo3(signature = (
        cache_hits=0, cache_misses=0, forward_passes=0, scoring_wall_s=0.0,
        batches_sent=0, batched_prompts=0, max_batch_size=0,
    ))]
    #[expect(clippy::too_many_arguments, reason = "the signature is the contract's")]
    fn __init__(
        &self,
        cache_hits: u64,
        cache_misses: u64,
        forward_passes: u64,
        scoring_wall_s: f64,
        batches_sent: u64,
        batched_prompts: u64,
        max_batch_size: u64,
    ) {
        self.set_cache_hits(cache_hits);
        self.set_cache_misses(cache_misses);
        self.set_forward_passes(forward_passes);
        self.set_scoring_wall_s(scoring_wall_s);
        self.set_batches_sent(batches_sent);
        self.set_batched_prompts(batched_prompts);
        self.set_max_batch_size(max_batch_size);
    }

    /// Lookups that found a value.
    #[getter]
    fn cache_hits(&self) -> u64 {
        self.sums().cache_hits.get()
    }

    #[setter]
    fn set_cache_hits(&self, value: u64) {
        self.replace(value, |stats, value| stats.cache_hits.set(value));
    }

    /// Lookups that found none.
    #[getter]
    fn cache_misses(&self) -> u64 {
        self.sums().cache_misses.get()
    }

    #[setter]
    fn set_cache_misses(&self, value: u64) {
        self.replace(value, |stats, value| stats.cache_misses.set(value));
    }

    /// Computations that gave a value.
    #[getter]
    fn forward_passes(&self) -> u64 {
        self.sums().forward_passes.get()
    }

    #[setter]
    fn set_forward_passes(&self, value: u64) {
        self.replace(value, |stats, value| stats.forward_passes.set(value));
    }

    /// Time spent in lookups and computations, in seconds; that of hits is an estimate (see the class).
    #[getter]
    fn scoring_wall_s(&self) -> f64 {
        self.sums().scoring_wall_s.get()
    }

    #[setter]
    fn set_scoring_wall_s(&self, value: f64) {
        self.replace(value, |stats, value| stats.scoring_wall_s.set(value));
    }

    /// Batches handed to a computation.
    #[getter]
    fn batches_sent(&self) -> u64 {
        self.sums().batches_sent.get()
    }

    #[setter]
    fn set_batches_sent(&self, value: u64) {
        self.replace(value, |stats, value| stats.batches_sent.set(value));
    }

    /// Prompts in those batches.
    #[getter]
    fn batched_prompts(&self) -> u64 {
        self.sums().batched_prompts.get()
    }

    #[setter]
    fn set_batched_prompts(&self, value: u64) {
        self.replace(value, |stats, value| stats.batched_prompts.set(value));
    }

    /// The largest batch, in prompts.
    #[getter]
    fn max_batch_size(&self) -> u64 {
        self.sums().max_batch_size.get()
    }

    #[setter]
    fn set_max_batch_size(&self, value: u64) {
        self.replace(value, |stats, value| stats.max_batch_size.set(value));
    }

    /// Prompts whose computation raised; not one of the fields that are compared.
    #[getter]
    fn failed_computes(&self) -> u64 {
        self.sums().failed_computes.get()
    }

    #[setter]
    fn set_failed_computes(&self, value: u64) {
        self.replace(value, |stats, value| stats.failed_computes.set(value));
    }

    /// Hits that waited while another thread computed the value.
    #[getter]
    fn waits(&self) -> u64 {
        self.sums().waits.get()
    }

    /// Time spent in those waits, in seconds; no part of `scoring_wall_s`.
    #[getter]
    fn wait_s(&self) -> f64 {
        self.sums().wait_s.get()
    }

    /// Values computed although another thread was computing them, so that nobody waits for ever.
    #[getter]
    fn duplicate_computes(&self) -> u64 {
        self.sums().duplicate_computes.get()
    }

    /// Events that the trace could not accept: the disk was full, or writing had become impossible.
    #[getter]
    fn trace_lost(&self) -> u64 {
        self.sums().trace_lost.get()
    }

    /// Entries of calls counted here, or evicted by them, that had to go for others.
    #[getter]
    fn evictions(&self) -> u64 {
        self.total().evictions
    }

    /// Values computed again after they had been evicted: the cache is smaller than what is scored
    /// again and again. At least the last 65,536 evictions of a cache are remembered.
    #[getter]
    fn recomputed(&self) -> u64 {
        self.total().recomputed
    }

    /// Seconds of computations that hits did not repeat.
    #[getter]
    fn saved_s(&self) -> f64 {
        self.total().saved_s
    }

    /// The figures of each op and view: a dict from `(op, view_id)` to `CallStats`.
    fn calls<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let calls = PyDict::new(py);
        for (op, view_id, figures) in self.lines(py)? {
            calls.set_item((op, view_id), call_stats(py, &figures)?)?;
        }
        Ok(calls)
    }

    /// The figures of each op, over all views: a dict from its name to `CallStats`.
    fn by_op<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        sums(py, self.lines(py)?.into_iter().map(|(op, _, figures)| (op, figures)))
    }

    /// The figures of each view, over all ops: a dict from its name to `CallStats`.
    fn by_view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        sums(py, self.lines(py)?.into_iter().map(|(_, view_id, figures)| (view_id, figures)))
    }

    /// A copy that counts no further, for `since`.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Self> {
        Self::default().plus(py, self)
    }

    /// What was done since `snapshot` was taken.
    ///
    /// Args:
    ///     snapshot: What `snapshot()` of these statistics gave.
    ///
    /// Returns:
    ///     The differences. `max_batch_size` stays that of the whole time, since a maximum can't be
    ///     taken apart; it is 0 if no batch was sent since.
    fn since(&self, py: Python<'_>, snapshot: &Bound<'_, Self>) -> PyResult<Self> {
        let since = self.snapshot(py)?;
        since.combine(py, snapshot.get(), Stats::take, CallFigures::take)?;
        Ok(since)
    }

    /// Both together; `max_batch_size` is the larger.
    fn __add__(&self, py: Python<'_>, other: &Bound<'_, Self>) -> PyResult<Self> {
        self.snapshot(py)?.plus(py, other.get())
    }

    /// Hits and misses together.
    #[getter]
    fn total_lookups(&self) -> u64 {
        self.cache_hits() + self.cache_misses()
    }

    /// Share of lookups that found a value; 0.0 before the first.
    #[getter]
    fn hit_rate(&self) -> f64 {
        Self::ratio(self.cache_hits(), self.total_lookups())
    }

    /// Prompts per batch; 0.0 before the first.
    #[getter]
    fn avg_batch_size(&self) -> f64 {
        Self::ratio(self.batched_prompts(), self.batches_sent())
    }

    /// The fields and ratios as a dict, in a fixed order.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("cache_hits", self.cache_hits())?;
        dict.set_item("cache_misses", self.cache_misses())?;
        dict.set_item("forward_passes", self.forward_passes())?;
        dict.set_item("scoring_wall_s", self.scoring_wall_s())?;
        dict.set_item("hit_rate", self.hit_rate())?;
        dict.set_item("batches_sent", self.batches_sent())?;
        dict.set_item("batched_prompts", self.batched_prompts())?;
        dict.set_item("max_batch_size", self.max_batch_size())?;
        dict.set_item("avg_batch_size", self.avg_batch_size())?;
        dict.set_item("failed_computes", self.failed_computes())?;
        dict.set_item("waits", self.waits())?;
        dict.set_item("wait_s", self.wait_s())?;
        dict.set_item("duplicate_computes", self.duplicate_computes())?;
        dict.set_item("trace_lost", self.trace_lost())?;
        let calls = self.total();
        dict.set_item("evictions", calls.evictions)?;
        dict.set_item("recomputed", calls.recomputed)?;
        dict.set_item("saved_s", calls.saved_s)?;
        Ok(dict)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> Option<bool> {
        let other = other.cast::<Self>().ok()?.get();
        let seconds = self.scoring_wall_s() == other.scoring_wall_s();
        Some(seconds && self.counts() == other.counts())
    }

    /// Copies and pickles hold the fields.
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let fields = FIELDS.iter().map(|name| slf.getattr(*name));
        let fields = PyTuple::new(slf.py(), fields.collect::<PyResult<Vec<_>>>()?)?;
        Ok((slf.get_type(), fields))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let fields = FIELDS.iter().map(|name| {
            let value = slf.getattr(*name)?.repr()?;
            Ok(format!("{name}={value}"))
        });
        let fields = fields.collect::<PyResult<Vec<_>>>()?.join(", ");
        Ok(format!("{}({fields})", slf.get_type().qualname()?))
    }

    /// Lets `dataclasses.fields`, `asdict` and `replace` work on the class.
    #[classattr]
    fn __dataclass_fields__(py: Python<'_>) -> PyResult<Py<PyAny>> {
        model(py, &FIELDS)?.getattr(py, "__dataclass_fields__")
    }

    /// Lets a dataclass inherit from the class.
    #[classattr]
    fn __dataclass_params__(py: Python<'_>) -> PyResult<Py<PyAny>> {
        model(py, &FIELDS)?.getattr(py, "__dataclass_params__")
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Py<PyTuple>> {
        Ok(PyTuple::new(py, FIELDS)?.unbind())
    }
}

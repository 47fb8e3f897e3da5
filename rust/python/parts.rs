//! Cache, trace and statistics of an instrumentation: ours, or objects of others that were assigned.
//!
//! Ours are reached directly. An object of another class, also of a subclass of ours, is used
//! through the methods and attributes that the plain-Python original has, so whatever it overrides
//! is called.

use super::cache::ForwardCache;
#[cfg(take_turns)]
use super::hashes::OtherFields;
use super::key::{Query, SharedKey, name_of};
use super::miss::miss;
use super::op_counters::Counts;
#[cfg(take_turns)]
use super::spots::Row;
use super::stats::BackendStats;
use super::stored::{Kept, Left, Stored};
use super::trace::TraceWriter;
use crate::clock::Ticks;
use crate::key::{Name, Salt};
use crate::sampling::HitTime;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit, intern};

/// Ours, or an object that behaves like it.
pub(super) enum Part<T: pyo3::PyClass> {
    Native(Py<T>),
    Foreign(Py<PyAny>),
}

impl<T: pyo3::PyClass> Part<T> {
    pub(super) fn of(object: Bound<'_, PyAny>) -> Self {
        if object.is_exact_instance_of::<T>() {
            Self::Native(object.cast_into().expect("of the class just asked for").unbind())
        } else {
            Self::Foreign(object.unbind())
        }
    }

    pub(super) fn as_object(&self) -> &Py<PyAny> {
        match self {
            Self::Native(ours) => ours.as_any(),
            Self::Foreign(theirs) => theirs,
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Native(ours) => Self::Native(ours.clone_ref(py)),
            Self::Foreign(theirs) => Self::Foreign(theirs.clone_ref(py)),
        }
    }
}

/// What one call works with from its beginning to its end. A Python object, so that a call takes
/// hold of all three by one reference.
#[pyclass(frozen, module = "forwardcache._core", name = "_Parts")]
pub(super) struct Parts {
    pub(super) cache: Part<ForwardCache>,
    pub(super) trace: Part<TraceWriter>,
    pub(super) stats: Part<BackendStats>,
}

impl Parts {
    /// Whether both cache and statistics are ours.
    #[inline]
    pub(super) fn are_ours(&self) -> bool {
        matches!((&self.cache, &self.stats), (Part::Native(_), Part::Native(_)))
    }

    /// The value of a hit on just these objects whose place is known, and which needn't be timed or
    /// written down. No Python code runs.
    #[cfg(take_turns)]
    #[inline(always)]
    pub(super) fn known_hit<'py>(
        &self,
        py: Python<'py>,
        others: &OtherFields<'_, 'py>,
        prompt: &Bound<'py, PyAny>,
    ) -> Option<Py<PyAny>> {
        let (Part::Native(cache), Part::Native(stats)) = (&self.cache, &self.stats) else {
            return None;
        };
        let stats = stats.get();
        if stats.is_due() || self.trace.is_on() {
            return None;
        }
        let read = |kept: &Kept| (kept.value.clone_ref(py), kept.cost_s);
        let ((value, cost_s), _) = cache.get().lookup_known(Row::of(others, prompt), read)?;
        if stats.add_known_hit(others.op, others.view_id, cost_s) {
            return Some(value);
        }
        value.drop_ref(py);
        None
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            cache: self.cache.clone_ref(py),
            trace: self.trace.clone_ref(py),
            stats: self.stats.clone_ref(py),
        }
    }
}

#[pymethods]
impl Parts {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.cache.as_object())?;
        visit.call(self.trace.as_object())?;
        visit.call(self.stats.as_object())
    }
}

/// A value from the cache, with what a trace needs to name its key.
pub(super) struct Found<S> {
    pub(super) value: Py<PyAny>,
    /// Seconds that its computation took.
    pub(super) cost_s: f64,
    pub(super) key: S,
}

/// What a lookup notes of the entry that it found, besides the value.
pub(super) struct Notes {
    pub(super) cost_s: f64,
    /// What a trace calls the key, if that was made before.
    pub(super) name: Option<Name>,
    /// The key, if its name is still to be made.
    pub(super) unnamed: Option<SharedKey>,
}

impl Notes {
    /// May come twice in a lookup, and then of equal keys: nothing is dropped, since the core is at work.
    #[inline(always)]
    fn note(&mut self, key: &SharedKey, kept: &Kept, salt: Option<&Salt>) {
        self.cost_s = kept.cost_s;
        self.name = key.made_name(salt).copied();
        if self.name.is_none() && self.unnamed.is_none() {
            self.unnamed = Some(SharedKey::clone(key));
        }
    }
}

/// What a lookup takes along from the key that it found.
pub(super) trait Seen: Sized {
    /// From a key of ours; a foreign cache keeps its keys to itself.
    fn of(key: Option<&SharedKey>, trace: &Part<TraceWriter>) -> Self;

    /// What a trace calls the key, if it is wanted.
    ///
    /// # Errors
    /// `TypeError` if a field is not of the type that `cached` takes.
    fn name(&self, query: &Query<'_, '_>, trace: &Part<TraceWriter>) -> PyResult<Option<Name>>;
}

/// Nothing, where there is no trace.
pub(super) struct Unseen;

impl Seen for Unseen {
    #[inline]
    fn of(_: Option<&SharedKey>, _: &Part<TraceWriter>) -> Self {
        Self
    }

    #[inline]
    fn name(&self, _: &Query<'_, '_>, _: &Part<TraceWriter>) -> PyResult<Option<Name>> {
        Ok(None)
    }
}

/// The key of a value that was found, for a trace.
pub(super) enum SeenKey {
    /// The cache is a foreign one.
    Unknown,
    /// Its name was made before.
    Named(Name),
    /// Its name is still to be made.
    Unnamed(SharedKey),
}

impl Seen for SeenKey {
    #[inline]
    fn of(key: Option<&SharedKey>, trace: &Part<TraceWriter>) -> Self {
        let Some(key) = key else {
            return Self::Unknown;
        };
        let name = key.made_name(trace.salt()).copied();
        name.map_or_else(|| Self::Unnamed(SharedKey::clone(key)), Self::Named)
    }

    #[inline]
    fn name(&self, query: &Query<'_, '_>, trace: &Part<TraceWriter>) -> PyResult<Option<Name>> {
        let salt = trace.salt();
        match self {
            Self::Named(name) => Ok(Some(*name)),
            Self::Unnamed(key) => key.name(query.py(), salt).map(Some),
            Self::Unknown => {
                let fields = query.fields().iter().map(|field| Bound::clone(field));
                name_of(&fields.collect::<Vec<_>>(), salt).map(Some)
            }
        }
    }
}

impl Part<ForwardCache> {
    /// Looks a value up for a use at `at`, and what `trace` needs of its key.
    #[inline(always)]
    pub(super) fn get<S: Seen>(
        &self,
        py: Python<'_>,
        query: &Query<'_, '_>,
        at: &mut Ticks,
        trace: &Part<TraceWriter>,
    ) -> PyResult<Option<Found<S>>> {
        match self {
            Self::Native(cache) => cache.get().lookup(query, at, |key, kept| Found {
                value: kept.value.clone_ref(py),
                cost_s: kept.cost_s,
                key: S::of(Some(key), trace),
            }),
            Self::Foreign(cache) => {
                let value = cache.call_method1(py, intern!(py, "get"), (query.to_tuple()?,))?;
                let found = !value.is(miss(py)?);
                Ok(found.then_some(Found { value, cost_s: 0.0, key: S::of(None, trace) }))
            }
        }
    }

    /// The value of a cache of ours, for a trace; what else is asked goes to `notes`, and means something
    /// only if there is a value. Handed back with the value it would be copied from return to return, and
    /// each copy waits for the stores of the one before: 20 ns of a hit.
    #[inline(always)]
    pub(super) fn get_noting(
        &self,
        py: Python<'_>,
        query: &Query<'_, '_>,
        at: &mut Ticks,
        (salt, notes): (Option<&Salt>, &mut Notes),
    ) -> PyResult<Option<Py<PyAny>>> {
        let Self::Native(cache) = self else {
            return Ok(None);
        };
        cache.get().lookup(query, at, |key, kept| {
            notes.note(key, kept, salt);
            kept.value.clone_ref(py)
        })
    }

    /// A value that is found at the first look and without Python code.
    #[cfg(take_turns)]
    #[inline(always)]
    pub(super) fn get_at_once<S: Seen>(
        &self,
        py: Python<'_>,
        query: &Query<'_, '_>,
        trace: &Part<TraceWriter>,
    ) -> Option<Found<S>> {
        let Self::Native(cache) = self else { return None };
        cache.get().lookup_at_once(query, |key, kept| Found {
            value: kept.value.clone_ref(py),
            cost_s: kept.cost_s,
            key: S::of(Some(key), trace),
        })
    }

    /// How many invalidations there were; read before a computation of a key of this hash begins.
    #[inline]
    pub(super) fn generation_before(&self, hash: u64) -> u32 {
        match self {
            Self::Native(cache) => cache.get().generation_before(hash),
            Self::Foreign(_) => 0,
        }
    }

    /// How many invalidations there were; read before a computation begins.
    pub(super) fn generation(&self) -> u32 {
        match self {
            Self::Native(cache) => cache.get().generation(),
            Self::Foreign(_) => 0,
        }
    }

    /// Stores a value that took `cost_s` seconds to compute, beginning in generation `began`.
    // Always: what comes of it would be copied on its way back.
    #[inline(always)]
    pub(super) fn put(
        &self,
        py: Python<'_>,
        query: &Query<'_, '_>,
        key: SharedKey,
        kept: Kept,
        began: u32,
    ) -> PyResult<Stored> {
        match self {
            Self::Native(cache) => cache.get().store(query, key, kept, Some(began)),
            Self::Foreign(cache) => {
                let entry = (query.to_tuple()?, kept.value);
                cache.call_method1(py, intern!(py, "put"), entry)?;
                Ok(Stored::default())
            }
        }
    }
}

impl Part<BackendStats> {
    /// Adds what one call did for an op and a view.
    pub(super) fn add(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        counts: Counts,
    ) -> PyResult<()> {
        match self {
            Self::Native(stats) => stats.get().add(op, view_id, counts),
            Self::Foreign(stats) => add_by_attribute(stats.bind(op.py()), counts),
        }
    }

    /// Whether a hit is timed that begins now. Those of another class count the time of each.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        match self {
            Self::Native(stats) => stats.get().is_due(),
            Self::Foreign(_) => true,
        }
    }

    /// Counts one hit: what nearly every call does.
    #[inline]
    pub(super) fn add_hit(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        time: HitTime,
        saved_s: f64,
    ) -> PyResult<()> {
        match self {
            Self::Native(stats) => stats.get().add_hit(op, view_id, time, saved_s),
            Self::Foreign(stats) => {
                let wall_s = match time {
                    HitTime::Unknown => 0.0,
                    HitTime::Drawn(wall_s) | HitTime::Measured(wall_s) => wall_s,
                };
                let counts = Counts { hits: 1, wall_s, ..Counts::default() };
                add_by_attribute(stats.bind(op.py()), counts)
            }
        }
    }

    /// Counts one prompt that was computed in `wall_s` seconds and stored, and what had to go for it.
    #[inline]
    pub(super) fn add_computed(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        wall_s: f64,
        stored: &Stored,
    ) -> PyResult<()> {
        match self {
            Self::Native(stats) => stats.get().add_computed(op, view_id, wall_s, stored),
            Self::Foreign(stats) => {
                let counts = Counts { misses: 1, passes: 1, wall_s, ..Counts::default() };
                add_by_attribute(stats.bind(op.py()), counts)
            }
        }
    }

    /// Counts the entries that had to go.
    pub(super) fn add_evicted(&self, py: Python<'_>, evicted: &[Left]) -> PyResult<()> {
        match self {
            Self::Native(stats) => stats.get().add_evicted(py, evicted),
            Self::Foreign(_) => Ok(()),
        }
    }
}

fn add_by_attribute(stats: &Bound<'_, PyAny>, counts: Counts) -> PyResult<()> {
    let add = |name: &str, n: u64| match n {
        0 => Ok(()),
        n => stats.setattr(name, stats.getattr(name)?.add(n)?),
    };
    add("cache_hits", counts.hits)?;
    add("cache_misses", counts.misses)?;
    add("forward_passes", counts.passes)?;
    let wall_s = stats.getattr("scoring_wall_s")?.add(counts.wall_s)?;
    stats.setattr("scoring_wall_s", wall_s)?;
    if counts.batch == 0 {
        return Ok(());
    }
    add("batches_sent", 1)?;
    add("batched_prompts", counts.batch)?;
    match stats.getattr("max_batch_size")?.lt(counts.batch)? {
        true => stats.setattr("max_batch_size", counts.batch),
        false => Ok(()),
    }
}

impl<'py> Query<'_, 'py> {
    /// The tuple that a foreign cache, or a weigher, gets as the key.
    pub(super) fn to_tuple(&self) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(self.py(), self.fields())
    }
}

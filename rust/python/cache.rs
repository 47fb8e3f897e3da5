//! `ForwardCache`: the cache of the core with Python objects in it.

use super::invalidate::{Invalidations, Pattern};
use super::key::{Query, SharedKey, Verdicts};
use super::limits::{MaxBytes, MaxSize};
use super::miss::miss;
#[cfg(take_turns)]
use super::spots::{Row, Spots};
use super::stored::{Kept, Stored};
use super::text::Text;
use super::weigh::Weigher;
#[cfg(take_turns)]
use crate::cache::Spot;
use crate::cache::ghosts::Ghosts;
use crate::cache::{
    AtOnce, Cache, Capacity, EntryId, Match, Offer, Put, Question, Removed, reading,
};
use crate::clock::Ticks;
use crate::stats::Counter;
use crate::sync::{OnceLock, TAKE_TURNS, Turns};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use std::collections::HashMap;
use std::convert::Infallible;
use std::num::{NonZeroU64, NonZeroUsize};

/// Exact least-recently-used cache.
///
/// Keys are hashable tuples of any length, compared as Python compares them; values are any
/// objects, None included.
///
/// Args:
///     maxsize: Most entries kept; None for no limit.
///     max_bytes: Most bytes kept; None for no limit. A value that alone is more is not stored.
///     weigher: `weigher(key, value)` gives the bytes of an entry. By default the memory that the
///         value keeps, to a factor of two, the key's text, and the entry itself. A view of an
///         array, tensor or buffer keeps all of what it was cut from. What several entries share
///         counts in each; what no object tells, as the graph behind a tensor that requires
///         gradients, doesn't count.
///
/// Raises:
///     ValueError: maxsize or max_bytes is not positive.
#[pyclass(frozen, subclass, weakref, module = "forwardcache._core")]
#[derive(Default)]
pub(super) struct ForwardCache {
    /// Made by `__init__`, which a subclass calls with arguments of its own choice.
    made: OnceLock<Made>,
}

struct Made {
    cache: Cache<SharedKey, Kept>,
    weigher: Weigher,
    evictions: Counter,
    too_large: Counter,
    ghosts: Turns<Ghosts>,
    invalidations: Invalidations,
    #[cfg(take_turns)]
    spots: Turns<Spots>,
}

/// An op and a view with how many entries and bytes are held for them.
type Held = (Py<PyString>, Py<PyString>, u64, u64);

/// An op or a view as text, and its bytes: two that lack the same in UTF-8 are not the same. What is
/// no `str` by its `str`.
fn text_of(name: &Bound<'_, PyAny>) -> PyResult<(Py<PyString>, Box<[u8]>)> {
    let text = name.str()?;
    let bytes = Text::of(&text)?.as_bytes().into();
    Ok((text.unbind(), bytes))
}

impl Made {
    fn new(maxsize: MaxSize, max_bytes: MaxBytes, weigher: Weigher) -> Self {
        Self {
            cache: Cache::new(Capacity { entries: maxsize.0, bytes: max_bytes.0 }),
            weigher,
            evictions: Counter::default(),
            too_large: Counter::default(),
            ghosts: Turns::default(),
            invalidations: Invalidations::default(),
            #[cfg(take_turns)]
            spots: Turns::default(),
        }
    }
}

impl ForwardCache {
    pub(super) fn with_limits(maxsize: MaxSize, max_bytes: MaxBytes, weigher: Weigher) -> Self {
        Self { made: OnceLock::from(Made::new(maxsize, max_bytes, weigher)) }
    }

    #[inline]
    fn made(&self) -> &Made {
        let default = || Made::new(MaxSize::DEFAULT, MaxBytes::NO_LIMIT, Weigher::Default);
        self.made.get_or_init(default)
    }

    /// Reads the entry of `query` with `read` and makes it the most recent as of `at`, a reading
    /// during this call; a new one, if Python code runs in here.
    #[inline(always)]
    pub(super) fn lookup<R>(
        &self,
        query: &Query<'_, '_>,
        at: &mut Ticks,
        mut read: impl FnMut(&SharedKey, &Kept) -> R,
    ) -> PyResult<Option<R>> {
        let made = self.made();
        let mut asked = Asked::new(query, made);
        let tick = made.cache.clock().at(*at);
        match made.cache.get_at_once(query.hash, tick, &mut asked, &mut read) {
            AtOnce::Found(found) => Ok(Some(found)),
            AtOnce::Absent => Ok(None),
            AtOnce::Unclear => Python::attach(|_| Self::look_closely(asked, at, read)),
        }
    }

    /// [`Self::lookup`] as far as it ends with the first look.
    #[cfg(take_turns)]
    #[inline(always)]
    pub(super) fn lookup_at_once<R>(
        &self,
        query: &Query<'_, '_>,
        mut read: impl FnMut(&SharedKey, &Kept) -> R,
    ) -> Option<R> {
        let made = self.made();
        let (tick, mut asked) = (made.cache.clock().now(), Asked::new(query, made));
        match made.cache.get_at_once(query.hash, tick, &mut asked, &mut read) {
            AtOnce::Found(found) => Some(found),
            AtOnce::Absent | AtOnce::Unclear => None,
        }
    }

    /// Reads the entry of just these objects and makes it the most recent, if its place is known; with
    /// the spot of the entry that was used after it the last time.
    #[cfg(take_turns)]
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(super) fn lookup_known<R>(
        &self,
        row: Row,
        read: impl FnOnce(&Kept) -> R,
    ) -> Option<(R, Option<Spot>)> {
        let made = self.made.get()?;
        let spot = made.spots.with(|spots| spots.get(row))?;
        if !made.cache.is_there(spot) {
            return None;
        }
        // SAFETY: the spots of a cache are kept by `remember`, which has them from the same cache.
        unsafe { made.cache.get_at_spot(spot, |_| true, read) }
    }

    /// [`Self::lookup_known`] of the entry at a spot that may be that of these objects.
    ///
    /// # Safety
    /// The spot is one that this cache gave.
    #[cfg(take_turns)]
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(super) unsafe fn lookup_at<R>(
        &self,
        py: Python<'_>,
        spot: Spot,
        row: Row,
        read: impl FnOnce(&Kept) -> R,
    ) -> Option<(R, Option<Spot>)> {
        let made = self.made.get().filter(|made| made.cache.is_there(spot))?;
        // SAFETY: by the caller's promise.
        unsafe { made.cache.get_at_spot(spot, |key| key.is_made_of(py, row), read) }
    }

    /// Remembers the place of the entry that was just read, if its key is made of just these objects.
    #[cfg(take_turns)]
    #[inline(never)]
    pub(super) fn remember(&self, py: Python<'_>, row: Row) {
        let made = self.made();
        if let Some(spot) = made.cache.newest_if(|key| key.is_made_of(py, row)) {
            made.spots.with(|spots| spots.keep(row, spot));
        }
    }

    #[cold]
    fn look_closely<R>(
        mut asked: Asked<'_, '_>,
        at: &mut Ticks,
        mut read: impl FnMut(&SharedKey, &Kept) -> R,
    ) -> PyResult<Option<R>> {
        let (query, cache) = (asked.query, &asked.made.cache);
        loop {
            match cache.get(query.hash, cache.clock().at(*at), &mut asked, &mut read) {
                Ok(found) => return Ok(found),
                Err(undecided) => asked.verdicts.ask(query, &undecided)?,
            }
            // Python has run, and may have used the cache: this use comes after those.
            *at = reading();
        }
    }

    /// How many invalidations there were; read before a computation of a key of this hash begins.
    #[inline]
    pub(super) fn generation_before(&self, hash: u64) -> u32 {
        let made = self.made();
        // Where threads run at once, waiting for each other would take longer.
        if TAKE_TURNS {
            made.ghosts.with(|ghosts| ghosts.will_take(hash));
        }
        made.cache.generation()
    }

    /// How many invalidations there were; read before a computation begins.
    pub(super) fn generation(&self) -> u32 {
        self.made().cache.generation()
    }

    /// Stores a value; `key` is what `query.store()` gave. A value whose computation began before an
    /// invalidation of its key isn't stored; `began` is the generation then.
    ///
    /// # Errors
    /// Those of `__eq__` and of the weigher.
    #[inline(always)]
    pub(super) fn store(
        &self,
        query: &Query<'_, '_>,
        key: SharedKey,
        kept: Kept,
        began: Option<u32>,
    ) -> PyResult<Stored> {
        let made = self.made();
        let bounded = made.cache.capacity().bytes;
        let weigh = |most: NonZeroU64| made.weigher.weigh(query, &kept.value, most.get());
        let bytes = bounded.map(weigh).transpose()?;
        let weight = bytes.unwrap_or_default();
        let mut offer = Offer { hash: query.hash, weight, began, content: Some((key, kept)) };
        let mut asked = Asked::new(query, made);
        loop {
            match made.cache.put(&mut offer, &mut asked) {
                Ok(put) => return Ok(self.account(query.hash, bytes, put)),
                Err(undecided) => asked.verdicts.ask(query, &undecided)?,
            }
        }
    }

    /// Counts what a put did.
    fn account(&self, hash: u64, bytes: Option<u64>, put: Put<SharedKey, Kept>) -> Stored {
        let made = self.made();
        made.evictions.add(put.evicted.len() as u64);
        let most = made.cache.capacity().bytes.map(NonZeroU64::get);
        let is_too_large = bytes.zip(most).is_some_and(|(bytes, most)| bytes > most);
        made.too_large.add(u64::from(is_too_large && !put.stored));
        let recomputed = made.ghosts.with(|ghosts| {
            let recomputed = u64::from(ghosts.take(hash));
            put.evicted.iter().for_each(|removed| ghosts.add(removed.hash));
            recomputed
        });
        Stored { bytes, recomputed, evicted: put.evicted, replaced: put.removed }
    }

    /// Removes the entries of an op, of a view, of both, or all; returns how many there were.
    ///
    /// # Errors
    /// Those of `__eq__`.
    pub(super) fn invalidate(&self, py: Python<'_>, pattern: &Pattern<'_, '_>) -> PyResult<usize> {
        let made = self.made();
        let mut verdicts = Verdicts::default();
        loop {
            let matches = |id, key: &SharedKey| pattern.compare(py, &verdicts, id, key);
            match made.cache.remove_matching(matches, || made.invalidations.add(pattern)) {
                Ok(removed) => return Ok(removed.len()),
                Err(undecided) => pattern.ask(py, &mut verdicts, &undecided)?,
            }
        }
    }

    /// Entries and bytes of each op and view, as `(op, view_id, entries, bytes)`.
    ///
    /// # Errors
    /// Those of `__str__`, where an op or a view is no `str`.
    pub(super) fn held(&self, py: Python<'_>) -> PyResult<Vec<Held>> {
        let mut entries = Vec::new();
        let each: Result<(), Infallible> = self.made().cache.try_for_each(|key, _, bytes| {
            entries.push((SharedKey::clone(key), bytes));
            Ok(())
        });
        each.unwrap_or_else(|never| match never {});
        let mut held = HashMap::<(Box<[u8]>, Box<[u8]>), Held>::new();
        for (key, bytes) in &entries {
            let Some((op, view_id)) = key.op_and_view() else { continue };
            let (op, op_bytes) = text_of(op.bind(py))?;
            let (view, view_bytes) = text_of(view_id.bind(py))?;
            let line = held.entry((op_bytes, view_bytes)).or_insert((op, view, 0, 0));
            (line.2, line.3) = (line.2 + 1, line.3 + bytes);
        }
        Ok(held.into_values().collect())
    }

    fn read_unmoved<R>(
        &self,
        query: &Query<'_, '_>,
        mut read: impl FnMut(&SharedKey, &Kept) -> R,
    ) -> PyResult<Option<R>> {
        let made = self.made();
        let mut asked = Asked::new(query, made);
        loop {
            match made.cache.peek(query.hash, &mut asked, &mut read) {
                Ok(found) => return Ok(found),
                Err(undecided) => asked.verdicts.ask(query, &undecided)?,
            }
        }
    }
}

/// A query, with what Python has said about entries so far.
struct Asked<'a, 'py> {
    query: &'a Query<'a, 'py>,
    made: &'a Made,
    verdicts: Verdicts,
}

impl<'a, 'py> Asked<'a, 'py> {
    #[inline]
    fn new(query: &'a Query<'a, 'py>, made: &'a Made) -> Self {
        Self { query, made, verdicts: Verdicts::default() }
    }
}

impl Question<SharedKey> for Asked<'_, '_> {
    #[inline(always)]
    fn matches(&mut self, id: EntryId, stored: &SharedKey) -> Match {
        self.verdicts.compare(id, self.query, stored)
    }

    fn is_still_good(&mut self, stored: &SharedKey, generation: u32) -> Option<u32> {
        self.made.invalidations.approve(self.query.py(), generation, stored)
    }
}

#[pymethods]
impl ForwardCache {
    /// Takes whatever a subclass's own `__init__` takes; see `__init__`.
    #[new]
    #[pyo3(
        signature = (*_arguments, **_keywords),
        text_signature = "(maxsize=256, *, max_bytes=None, weigher=None)"
    )]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    #[pyo3(signature = (
        maxsize=MaxSize::DEFAULT, *, max_bytes=MaxBytes::NO_LIMIT, weigher=None
    ))]
    fn __init__(
        &self,
        maxsize: MaxSize,
        max_bytes: MaxBytes,
        weigher: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let made = Made::new(maxsize, max_bytes, Weigher::of(weigher));
        let again = |_| PyRuntimeError::new_err("this cache is in use: make another one");
        self.made.set(made).map_err(again)
    }

    /// Most entries kept, None if there is no limit.
    #[getter]
    fn maxsize(&self) -> Option<usize> {
        self.made().cache.capacity().entries.map(NonZeroUsize::get)
    }

    /// Most bytes kept, None if there is no limit.
    #[getter]
    fn max_bytes(&self) -> Option<u64> {
        self.made().cache.capacity().bytes.map(NonZeroU64::get)
    }

    /// Bytes held; 0 where `max_bytes` is None, since nothing is weighed then.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.made().cache.weight()
    }

    /// Entries that had to go for others.
    #[getter]
    fn evictions(&self) -> u64 {
        self.made().evictions.get()
    }

    /// Values that were not stored because one alone is more than `max_bytes`.
    #[getter]
    fn too_large(&self) -> u64 {
        self.made().too_large.get()
    }

    /// Looks a value up and makes its entry the most recent one.
    ///
    /// Args:
    ///     key: Any hashable tuple.
    ///
    /// Returns:
    ///     The object that was put, or the sentinel `_MISS`.
    ///
    /// Raises:
    ///     TypeError: `key` isn't hashable. What its `__hash__` or `__eq__` raises comes out unchanged.
    fn get(&self, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = key.py();
        let mut at = reading();
        let read =
            |query: &Query<'_, '_>| self.lookup(query, &mut at, |_, kept| kept.value.clone_ref(py));
        Query::with(key, read)?.map_or_else(|| Ok(miss(py)?.clone_ref(py)), Ok)
    }

    /// Looks a value up; the order of use stays as it is.
    ///
    /// Args:
    ///     key: Any hashable tuple.
    ///
    /// Returns:
    ///     The object that was put, or the sentinel `_MISS`.
    ///
    /// Raises:
    ///     TypeError: As in `get`.
    fn peek(&self, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = key.py();
        let read =
            |query: &Query<'_, '_>| self.read_unmoved(query, |_, kept| kept.value.clone_ref(py));
        Query::with(key, read)?.map_or_else(|| Ok(miss(py)?.clone_ref(py)), Ok)
    }

    /// Stores or replaces a value as the most recent one, and evicts the least recently used entries
    /// while there are more than `maxsize`, or more bytes than `max_bytes`.
    ///
    /// Args:
    ///     key: Any hashable tuple.
    ///     value: Any object, None included. One that alone is more than `max_bytes` isn't stored, and
    ///         what `key` had goes.
    ///
    /// Raises:
    ///     TypeError: As in `get`. What the weigher raises comes out unchanged.
    fn put(&self, key: &Bound<'_, PyAny>, value: Py<PyAny>) -> PyResult<()> {
        let kept = Kept { value, cost_s: 0.0 };
        Query::with(key, |query| self.store(query, query.store(), kept, None)).map(drop)
    }

    /// Removes every entry.
    fn clear(&self) {
        let removed: Vec<Removed<_, _>> = self.made().cache.clear();
        self.made().ghosts.with(Ghosts::clear);
        drop(removed);
    }

    fn __len__(&self) -> usize {
        self.made().cache.len()
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let found = Query::with(key, |query| self.read_unmoved(query, |_, _| ()))?;
        Ok(found.is_some())
    }

    fn __repr__(&self) -> String {
        let limit = self.maxsize().map_or_else(|| "None".to_owned(), |most| most.to_string());
        format!("ForwardCache(maxsize={limit}, len={})", self.made().cache.len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.made().weigher.traverse(&visit)?;
        self.made().cache.try_for_each(|key, kept, _| {
            key.traverse(&visit)?;
            visit.call(&kept.value)
        })
    }

    fn __clear__(&self) {
        self.clear();
    }
}

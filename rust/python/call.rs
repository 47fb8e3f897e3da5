//! One call of `cached`: look up, compute if need be, count, and write down what happened.

use super::ending;
use super::event::{Outcome, Source};
use super::flight::{PyFlight, PyFlights, PyTicket, Waited};
use super::hashes::{Hashes, OtherFields, PROMPT};
use super::key::{Field, Query, SharedKey, check_prompt};
use super::op_counters::Counts;
use super::parts::{Found, Notes, Parts, Seen, SeenKey, Unseen};
use super::probe::Probes;
use super::stored::Kept;
use super::trace::error_name;
use crate::cache::flight::Joined;
use crate::cache::reading;
use crate::clock::{self, Ticks};
use crate::key::{Name, Shares};
use crate::sampling::HitTime;
use crate::sync::TAKE_TURNS;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString, PyType};

/// The generation in which a computation begins, and when the call for it, or its turn after a wait, did.
type Began = (u32, Ticks);

/// A call under way, with the parts it works on from its beginning to its end.
pub(super) struct Call<'a, 'py> {
    pub(super) py: Python<'py>,
    pub(super) parts: &'a Parts,
    pub(super) flights: &'a PyFlights,
    probes: &'a Probes,
    pub(super) hashes: &'a Hashes,
    pub(super) key: OtherFields<'a, 'py>,
    /// What the fields of `key` add to a hash.
    shares: Shares,
    /// Whether events are wanted.
    traced: bool,
    /// Whether a hit is timed.
    is_timed: bool,
    /// When the call began; where threads take turns, only if it is timed.
    started: Ticks,
    /// Flights that had ended by then.
    ended_before: u64,
}

impl<'a, 'py> Call<'a, 'py> {
    /// Runs `use_call` with a call that begins now. Handing it back instead would copy it. If it is not
    /// `always_timed`, only some of its hits are.
    ///
    /// # Errors
    /// `TypeError` if `scope` is not bytes; those of a field's `__hash__`, and of `use_call`.
    #[inline(always)]
    pub(super) fn with<R>(
        py: Python<'py>,
        parts: &'a Parts,
        (flights, probes, hashes): (&'a PyFlights, &'a Probes, &'a Hashes),
        key: OtherFields<'a, 'py>,
        always_timed: bool,
        use_call: impl FnOnce(&Self) -> PyResult<R>,
    ) -> PyResult<R> {
        let traced = parts.trace.is_on();
        let is_timed = always_timed || traced || parts.stats.is_due();
        // Where threads don't take turns, the order of use asks for a reading anyway.
        let started = if is_timed || !TAKE_TURNS { clock::ordered_now() } else { Ticks::default() };
        let scope = match key.scope {
            None => None,
            Some(scope) => checked_scope(scope)?,
        };
        let key = OtherFields { scope, ..key };
        let shares = hashes.shares(&key)?;
        let ended_before = flights.ended();
        use_call(&Self {
            py,
            parts,
            flights,
            probes,
            hashes,
            key,
            shares,
            traced,
            is_timed,
            started,
            ended_before,
        })
    }

    /// Seconds since the call began.
    #[inline]
    pub(super) fn elapsed_s(&self) -> f64 {
        self.started.elapsed_s()
    }

    /// Whether events are wanted.
    #[inline]
    pub(super) fn is_traced(&self) -> bool {
        self.traced
    }

    /// Runs `use_query` with the query for one prompt.
    #[inline]
    pub(super) fn with_query<R>(
        &self,
        prompt: &Bound<'py, PyAny>,
        use_query: impl FnOnce(&Query<'_, 'py>) -> PyResult<R>,
    ) -> PyResult<R> {
        self.with_query_of(prompt, self.hashes.kept(prompt), use_query)
    }

    /// [`Self::with_query`] where it is known what `hashes` has kept of the prompt.
    #[inline]
    pub(super) fn with_query_of<R>(
        &self,
        prompt: &Bound<'py, PyAny>,
        kept: Option<u64>,
        use_query: impl FnOnce(&Query<'_, 'py>) -> PyResult<R>,
    ) -> PyResult<R> {
        let hash = match kept {
            Some(hash) => hash,
            None => prompt.hash()? as u64,
        };
        self.with_query_at(prompt, hash, use_query)
    }

    /// Runs `use_query` with the query for a prompt as if it had this hash.
    #[inline]
    pub(super) fn with_query_at<R>(
        &self,
        prompt: &Bound<'py, PyAny>,
        hash: u64,
        use_query: impl FnOnce(&Query<'_, 'py>) -> PyResult<R>,
    ) -> PyResult<R> {
        let OtherFields { op, view_id, top_k, scope } = self.key;
        let [op, view_id, top_k] = [op.as_borrowed(), view_id.as_borrowed(), top_k.as_borrowed()];
        let scope_or_any = scope.map_or(top_k, Bound::as_borrowed);
        let fields: [Field<'_, 'py>; 5] = [op, view_id, prompt.as_borrowed(), top_k, scope_or_any];
        let count = if scope.is_some() { 5 } else { 4 };
        let shares = self.shares.with(PROMPT, hash);
        use_query(&Query::of_fields(self.py, &fields[..count], shares))
    }

    /// The value of `prompt`: cached, computed here once and stored, or computed elsewhere.
    ///
    /// pyo3 need not know that this thread is attached. Where it doesn't, a `Py` that is dropped is
    /// let go by a later call; so whatever may drop one says that it is attached.
    #[inline]
    pub(super) fn run(
        &self,
        prompt: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        match (self.traced, self.parts.are_ours()) {
            (false, true) => self.run_as::<Unseen>(prompt, compute),
            (true, true) => self.run_traced(prompt, compute),
            (_, false) => Python::attach(|_| self.run_at_length(prompt, compute)),
        }
    }

    /// Where a trace and parts of ours are used: a hit whose key and caller are known drops nothing.
    #[inline(never)]
    fn run_traced(
        &self,
        prompt: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.with_query(prompt, |query| {
            let mut notes = Notes { cost_s: 0.0, name: None, unnamed: None };
            let noting = (self.parts.trace.salt(), &mut notes);
            let at = &mut { self.started };
            match self.parts.cache.get_noting(self.py, query, at, noting)? {
                Some(value) => self.hit_traced(value, &mut notes),
                None => Python::attach(|_| {
                    check_prompt(prompt)?;
                    self.miss(query, compute)
                }),
            }
        })
    }

    /// Where a foreign part is used.
    #[inline(never)]
    fn run_at_length(
        &self,
        prompt: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        match self.traced {
            false => self.run_as::<Unseen>(prompt, compute),
            true => self.run_as::<SeenKey>(prompt, compute),
        }
    }

    #[inline]
    fn run_as<S: Seen>(
        &self,
        prompt: &Bound<'py, PyAny>,
        compute: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let kept = self.hashes.kept(prompt);
        #[cfg(take_turns)]
        if kept.is_none()
            && let Some(guess) = self.hashes.guess(prompt)
            && let Some(value) = self.hit_by_guess::<S>(prompt, &guess)?
        {
            return Ok(value);
        }
        self.with_query_of(prompt, kept, |query| {
            let Some(found) = self.get::<S>(query, &mut { self.started })? else {
                check_prompt(prompt)?;
                return self.miss(query, compute);
            };
            #[cfg(take_turns)]
            if kept.is_some() {
                self.remember(prompt);
            }
            self.hit(query, found)
        })
    }

    /// Looks a key up, as used at `at`, a reading since the call began; a new one, if Python code runs
    /// in here.
    #[inline(always)]
    pub(super) fn get<S: Seen>(
        &self,
        query: &Query<'_, '_>,
        at: &mut Ticks,
    ) -> PyResult<Option<Found<S>>> {
        self.parts.cache.get(self.py, query, at, &self.parts.trace)
    }

    #[inline]
    pub(super) fn hit<S: Seen>(
        &self,
        query: &Query<'_, '_>,
        found: Found<S>,
    ) -> PyResult<Py<PyAny>> {
        if self.is_traced() {
            let (ended, wall_s) = self.count_hit(found.cost_s)?;
            let name = found.key.name(query, &self.parts.trace)?;
            let outcome = name.map(|name| Outcome::hit(name, wall_s));
            self.write_at(ended, outcome.as_slice(), None)?;
            return Ok(found.value);
        }
        let time = match self.is_timed {
            true => HitTime::Drawn(self.elapsed_s()),
            false => HitTime::Unknown,
        };
        let OtherFields { op, view_id, .. } = self.key;
        self.parts.stats.add_hit(op, view_id, time, found.cost_s)?;
        Ok(found.value)
    }

    /// A traced hit that ends now: when, and the seconds that it took.
    #[inline(always)]
    fn count_hit(&self, cost_s: f64) -> PyResult<(Ticks, f64)> {
        let ended = clock::now();
        let wall_s = ended.seconds_since(self.started);
        let OtherFields { op, view_id, .. } = self.key;
        self.parts.stats.add_hit(op, view_id, HitTime::Measured(wall_s), cost_s)?;
        Ok((ended, wall_s))
    }

    /// A hit of a cache of ours.
    #[inline(always)]
    fn hit_traced(&self, value: Py<PyAny>, notes: &mut Notes) -> PyResult<Py<PyAny>> {
        let (ended, wall_s) = self.count_hit(notes.cost_s)?;
        let (source, name) = (self.source(ended)?, notes.name.as_ref());
        if !name.is_some_and(|name| self.parts.trace.write_hit(&source, name, wall_s)) {
            self.write_hit(&source, notes, wall_s)?;
        }
        Ok(value)
    }

    #[cold]
    fn write_hit(&self, source: &Source<'_, '_>, notes: &mut Notes, wall_s: f64) -> PyResult<()> {
        Python::attach(|_| {
            // Dropped in here: it may be the last holder of its fields.
            let unnamed = notes.unnamed.take();
            let made = unnamed.as_ref().map(|key| key.name(self.py, self.parts.trace.salt()));
            let name = notes.name.map_or_else(|| made.transpose(), |name| Ok(Some(name)))?;
            let outcome = name.map(|name| Outcome::hit(name, wall_s));
            self.write_outcomes(source, outcome.as_slice(), None)
        })
    }

    /// Computes what is not there, or waits for the thread that does.
    fn miss(&self, query: &Query<'_, '_>, compute: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let key = query.store();
        // What was not to be timed if it was a hit is timed from here on.
        let mut started = if self.is_timed || !TAKE_TURNS { self.started } else { clock::now() };
        loop {
            let began = self.parts.cache.generation_before(query.hash);
            let flight = match self.flights.join(query, &key, began)? {
                Joined::Mine(ticket) => {
                    return self.compute_once(query, key, (began, started), ticket, compute);
                }
                Joined::Theirs(flight) => flight,
            };
            let wait = |_: Python<'_>| self.wait(query, &key, began, flight, compute);
            if let Some(value) = Python::attach(wait)? {
                return Ok(value);
            }
            started = clock::now();
        }
    }

    /// Waits for the thread that computes; computes as well if that would not end. None if it failed.
    fn wait(
        &self,
        query: &Query<'_, '_>,
        key: &SharedKey,
        began: u32,
        flight: PyFlight,
        compute: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        match self.flights.wait(self.py, &flight)? {
            Waited::Value { value, wait_s } => {
                self.waited(key, wait_s)?;
                Ok(Some(value))
            }
            Waited::Alone { wait_s } => {
                self.count(Counts { duplicates: 1, wait_s, ..Counts::default() })?;
                let began = (began, clock::now());
                self.compute(query, SharedKey::clone(key), began, compute, None).map(Some)
            }
            Waited::Failed { wait_s } => {
                self.count(Counts { wait_s, ..Counts::default() })?;
                Ok(None)
            }
        }
    }

    /// Counts and writes down a value that another thread computed.
    pub(super) fn waited(&self, key: &SharedKey, wait_s: f64) -> PyResult<()> {
        let counts = Counts { hits: 1, waits: 1, wait_s, ..Counts::default() };
        self.count(counts)?;
        let name = self.name(key)?;
        self.write(name.map(|name| Outcome::waited(name, wait_s)).as_slice(), None)
    }

    /// What a flight that ended between the lookup and the claim has left (F2).
    pub(super) fn look_again(&self, query: &Query<'_, '_>) -> PyResult<Option<Found<SeenKey>>> {
        if self.flights.ended() == self.ended_before {
            Ok(None)
        } else {
            self.get(query, &mut reading())
        }
    }

    fn compute_once(
        &self,
        query: &Query<'_, '_>,
        key: SharedKey,
        began: Began,
        ticket: PyTicket<'_>,
        compute: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(found) = self.look_again(query)? {
            ticket.finish(|| found.value.clone_ref(self.py));
            return self.hit(query, found);
        }
        self.compute(query, key, began, compute, Some(ticket))
    }

    fn compute(
        &self,
        query: &Query<'_, '_>,
        key: SharedKey,
        (generation, started): Began,
        compute: &Bound<'_, PyAny>,
        ticket: Option<PyTicket<'_>>,
    ) -> PyResult<Py<PyAny>> {
        let name = self.name(&key)?;
        let computed = ending::call(compute, None).and_then(refuse_coroutine);
        let wall_s = started.elapsed_s();
        let outcome = name.map(|name| Outcome::miss(name, wall_s));
        match computed {
            Ok(value) => {
                let value = value.unbind();
                let kept = Kept { value: value.clone_ref(self.py), cost_s: wall_s };
                let stored = self.parts.cache.put(self.py, query, key, kept, generation)?;
                let OtherFields { op, view_id, .. } = self.key;
                self.parts.stats.add_computed(op, view_id, wall_s, &stored)?;
                let outcome = outcome.map(|outcome| outcome.stored(stored.bytes));
                self.write(outcome.as_slice(), None)?;
                if let Some(ticket) = ticket {
                    ticket.finish(|| value.clone_ref(self.py));
                }
                // What had to go for the value goes now, with no flight of this call's open.
                stored.let_go(self.py);
                Ok(value)
            }
            Err(error) => {
                let counts = Counts { misses: 1, wall_s, ..Counts::default() };
                Python::attach(|_| self.failed(counts, outcome.as_slice(), &error))?;
                Err(error)
            }
        }
    }

    /// Adds to the statistics of this call's op and view.
    pub(super) fn count(&self, counts: Counts) -> PyResult<()> {
        self.parts.stats.add(self.key.op, self.key.view_id, counts)
    }

    /// What a trace calls the key, if there is one.
    pub(super) fn name(&self, key: &SharedKey) -> PyResult<Option<Name>> {
        self.is_traced().then(|| key.name(self.py, self.parts.trace.salt())).transpose()
    }

    /// Counts and writes down a computation that raised; `counts.misses` prompts have no value.
    pub(super) fn failed(
        &self,
        counts: Counts,
        outcomes: &[Outcome],
        error: &PyErr,
    ) -> PyResult<()> {
        let failed = counts.misses;
        self.count(Counts { failed, ..counts })?;
        let kind = error_name(self.py, error)?;
        self.write(outcomes, Some(kind.bind(self.py)))
    }

    /// Writes one event an outcome, under the probe of this context.
    pub(super) fn write(
        &self,
        outcomes: &[Outcome],
        error: Option<&Bound<'_, PyString>>,
    ) -> PyResult<()> {
        self.write_at(clock::now(), outcomes, error)
    }

    #[inline]
    fn write_at(
        &self,
        at: Ticks,
        outcomes: &[Outcome],
        error: Option<&Bound<'_, PyString>>,
    ) -> PyResult<()> {
        if outcomes.is_empty() {
            return Ok(());
        }
        self.write_outcomes(&self.source(at)?, outcomes, error)
    }

    /// Who calls, for events of what ended at `at`.
    #[inline]
    fn source(&self, at: Ticks) -> PyResult<Source<'_, 'py>> {
        let OtherFields { op, view_id, top_k, .. } = self.key;
        let probe = self.probes.current(self.py)?;
        Ok(Source { probe, op, view_id, top_k, at })
    }

    fn write_outcomes(
        &self,
        source: &Source<'_, '_>,
        outcomes: &[Outcome],
        error: Option<&Bound<'_, PyString>>,
    ) -> PyResult<()> {
        match self.parts.trace.write(source, outcomes, error)? {
            0 => Ok(()),
            lost => self.count(Counts { lost, ..Counts::default() }),
        }
    }
}

/// `scope` as part of the key: nothing if it is empty.
fn checked_scope<'a, 'py>(scope: &'a Bound<'py, PyAny>) -> PyResult<Option<&'a Bound<'py, PyAny>>> {
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

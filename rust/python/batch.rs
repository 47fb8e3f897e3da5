//! One call of `cached_batch`: which prompts are there, which are computed, what each became.
//!
//! A batch claims the flights of all keys that nobody computes, computes those, ends all its flights,
//! and only then waits for the keys that other threads compute: while a batch waits it owns nothing,
//! so overlapping batches can't wait for each other in a circle. Keys whose computation elsewhere
//! failed go round once more.
//!
//! Events come in this order: the hits, then the misses, then the prompts that stood a second time
//! in the batch, which are hits of a value that was computed for the first, then those that another
//! thread computed.

use super::call::{Call, refuse_coroutine};
use super::ending;
use super::event::Outcome;
use super::flight::{PyFlight, PyJoined, PyTicket, Waited};
use super::key::{Query, SharedKey, check_prompt};
use super::op_counters::Counts;
use super::parts::{Found, Seen, SeenKey, Unseen};
use super::stored::Kept;
use crate::cache::flight::Joined;
use crate::cache::reading;
use crate::clock;
use crate::key::Name;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use std::collections::HashMap;

/// A prompt that was not there; the first of those with its key.
struct Miss {
    position: usize,
    key: SharedKey,
    /// Waiting for another thread would not end.
    alone: bool,
}

/// A prompt that stands for the second time: its position, and which miss it repeats.
struct Repeat {
    position: usize,
    miss: usize,
}

/// What a batch has to compute, and the duty to end the flight, unless it computes without one.
struct Mine<'c> {
    miss: usize,
    ticket: Option<PyTicket<'c>>,
}

/// What another thread computes.
struct Theirs {
    miss: usize,
    flight: PyFlight,
}

struct Batch<'c, 'a, 'py> {
    call: &'c Call<'a, 'py>,
    prompts: Bound<'py, PyTuple>,
    values: Vec<Option<Py<PyAny>>>,
    hits: u64,
    /// The name of each hit, where there is a trace.
    names: Vec<Name>,
    misses: Vec<Miss>,
    repeats: Vec<Repeat>,
    misses_of_hash: HashMap<u64, Vec<usize>>,
    /// Seconds of computations that the hits did not repeat.
    saved_s: f64,
    /// What the trace calls this batch.
    id: Option<u64>,
}

/// The values of all prompts, in order.
pub(super) fn run<'py>(
    call: &Call<'_, 'py>,
    prompts: &Bound<'py, PyAny>,
    compute_misses: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    let mut batch = Batch::new(call, checked_prompts(prompts)?);
    batch.look_up()?;
    batch.count_hits()?;
    batch.fill(compute_misses)?;
    batch.repeat()?;
    let value = |value: Option<Py<PyAny>>| value.expect("each prompt has got its value");
    PyList::new(call.py, batch.values.into_iter().map(value))
}

/// The prompts, held by a tuple of our own: the caller's list may change while Python code runs.
///
/// # Errors
/// `TypeError` for a single `str`, whose characters would be taken for prompts, and for what is not
/// iterable.
fn checked_prompts<'py>(prompts: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    if prompts.is_instance_of::<PyString>() {
        let reason = "prompts must be a sequence of prompts, not a single str";
        return Err(PyTypeError::new_err(reason));
    }
    let tuple = prompts.py().get_type::<PyTuple>().call1((prompts,))?;
    Ok(tuple.cast_into()?)
}

impl<'c, 'a, 'py> Batch<'c, 'a, 'py> {
    fn new(call: &'c Call<'a, 'py>, prompts: Bound<'py, PyTuple>) -> Self {
        Self {
            call,
            values: Vec::with_capacity(prompts.len()),
            prompts,
            hits: 0,
            names: Vec::new(),
            misses: Vec::new(),
            repeats: Vec::new(),
            misses_of_hash: HashMap::new(),
            saved_s: 0.0,
            id: call.parts.trace.next_batch(),
        }
    }

    fn look_up(&mut self) -> PyResult<()> {
        match self.call.is_traced() {
            false => self.look_up_as::<Unseen>(),
            true => self.look_up_as::<SeenKey>(),
        }
    }

    fn look_up_as<S: Seen>(&mut self) -> PyResult<()> {
        let call = self.call;
        let prompts = self.prompts.clone();
        let mut at = reading();
        #[cfg(take_turns)]
        let mut next = None;
        for (position, prompt) in prompts.iter_borrowed().enumerate() {
            #[cfg(take_turns)]
            if !call.is_traced()
                && let Some((value, cost_s)) = call.get_known(&prompt, &mut next)
            {
                self.hits += 1;
                self.saved_s += cost_s;
                self.values.push(Some(value));
                continue;
            }
            let kept = call.hashes.kept(&prompt);
            // One reading of the clock for a row of uses, as long as no Python code runs between them.
            at = if prompt.is_exact_instance_of::<PyString>() { at.next() } else { reading() };
            call.with_query_of(&prompt, kept, |query| {
                let Some(found) = call.get::<S>(query, &mut at)? else {
                    return self.miss(position, &prompt, query);
                };
                #[cfg(take_turns)]
                if kept.is_some() {
                    call.remember(&prompt);
                }
                self.hit(query, found)
            })?;
        }
        Ok(())
    }

    /// Runs `use_query` with the query for the prompt at `position`.
    fn with_query<R>(
        &self,
        position: usize,
        use_query: impl FnOnce(&Query<'_, 'py>) -> PyResult<R>,
    ) -> PyResult<R> {
        self.call.with_query(&*self.prompts.get_borrowed_item(position)?, use_query)
    }

    #[inline]
    fn hit<S: Seen>(&mut self, query: &Query<'_, '_>, found: Found<S>) -> PyResult<()> {
        self.hits += 1;
        self.saved_s += found.cost_s;
        self.values.push(Some(found.value));
        self.names.extend(found.key.name(query, &self.call.parts.trace)?);
        Ok(())
    }

    fn miss(
        &mut self,
        position: usize,
        prompt: &Bound<'py, PyAny>,
        query: &Query<'_, '_>,
    ) -> PyResult<()> {
        check_prompt(prompt)?;
        self.values.push(None);
        let same_hash = self.misses_of_hash.entry(query.hash).or_default();
        for &miss in same_hash.iter() {
            if query.equals(&self.misses[miss].key)? {
                self.repeats.push(Repeat { position, miss });
                return Ok(());
            }
        }
        same_hash.push(self.misses.len());
        let key = query.store();
        self.misses.push(Miss { position, key, alone: false });
        Ok(())
    }

    fn count_hits(&self) -> PyResult<()> {
        let call = self.call;
        let wall_s = call.elapsed_s();
        let Self { hits, saved_s, .. } = *self;
        call.count(Counts { hits, wall_s, saved_s, ..Counts::default() })?;
        let looked_up = self.prompts.len();
        let share_s = wall_s / looked_up as f64;
        let outcomes = self
            .names
            .iter()
            .map(|name| Outcome::hit(*name, share_s).in_batch(self.id, looked_up, wall_s));
        call.write(&outcomes.collect::<Vec<_>>(), None)
    }

    /// Gives every miss its value.
    fn fill(&mut self, compute_misses: &Bound<'py, PyAny>) -> PyResult<()> {
        let mut open: Vec<usize> = (0..self.misses.len()).collect();
        while !open.is_empty() {
            let began = self.call.parts.cache.generation();
            let (mine, theirs) = self.claim(&open, began)?;
            self.compute(mine, began, compute_misses)?;
            open = self.wait(theirs)?;
        }
        Ok(())
    }

    /// Who computes which of the open misses; those that are there by now are hits.
    fn claim(&mut self, open: &[usize], began: u32) -> PyResult<(Vec<Mine<'a>>, Vec<Theirs>)> {
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for &miss in open {
            if self.misses[miss].alone {
                mine.push(Mine { miss, ticket: None });
                continue;
            }
            match self.join(miss, began)? {
                Joined::Theirs(flight) => theirs.push(Theirs { miss, flight }),
                Joined::Mine(ticket) => match self.look_again(miss)? {
                    None => mine.push(Mine { miss, ticket: Some(ticket) }),
                    Some(value) => ticket.finish(|| value),
                },
            }
        }
        Ok((mine, theirs))
    }

    fn join(&self, miss: usize, began: u32) -> PyResult<PyJoined<'a>> {
        let Miss { position, key, .. } = &self.misses[miss];
        let flights = self.call.flights;
        self.with_query(*position, |query| flights.join(query, key, began))
    }

    /// What was computed between the lookup and the claim is a hit.
    fn look_again(&mut self, miss: usize) -> PyResult<Option<Py<PyAny>>> {
        let call = self.call;
        let position = self.misses[miss].position;
        let found = self.with_query(position, |query| call.look_again(query))?;
        let Some(found) = found else {
            return Ok(None);
        };
        call.count(Counts { hits: 1, saved_s: found.cost_s, ..Counts::default() })?;
        let name = call.name(&self.misses[miss].key)?;
        let outcome = name.map(|name| Outcome::hit(name, 0.0).in_batch(self.id, 1, 0.0));
        call.write(outcome.as_slice(), None)?;
        self.values[position] = Some(found.value.clone_ref(call.py));
        Ok(Some(found.value))
    }

    fn compute(
        &mut self,
        mine: Vec<Mine<'a>>,
        began: u32,
        compute_misses: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let call = self.call;
        if mine.is_empty() {
            return Ok(());
        }
        let indices = mine.iter().map(|mine| self.misses[mine.miss].position).collect::<Vec<_>>();
        let size = indices.len();
        let arguments = PyTuple::new(call.py, [PyList::new(call.py, indices)?])?;
        let started = clock::now();
        let computed = ending::call(compute_misses, Some(&arguments));
        let computed = computed.and_then(|values| checked_values(values, size));
        let wall_s = started.elapsed_s();
        let size = size as u64;
        let counts = Counts { misses: size, batch: size, wall_s, ..Counts::default() };
        match computed {
            Ok(values) => self.computed(mine, values, began, counts),
            Err(error) => {
                // The tickets go with `mine`: whoever waits computes for itself.
                call.failed(counts, &self.miss_outcomes(&mine, wall_s)?, &error)?;
                Err(error)
            }
        }
    }

    /// Stores the values, ends the flights, counts and writes down.
    fn computed(
        &mut self,
        mine: Vec<Mine<'a>>,
        values: Vec<Bound<'py, PyAny>>,
        began: u32,
        counts: Counts,
    ) -> PyResult<()> {
        let call = self.call;
        let cost_s = counts.wall_s / counts.misses as f64;
        // Dropped when all flights have ended: a `__del__` may ask for these keys.
        let (mut evicted, mut replaced, mut recomputed) = (Vec::new(), Vec::new(), 0);
        let mut outcomes = self.miss_outcomes(&mine, counts.wall_s)?;
        for (index, (Mine { miss, ticket }, value)) in mine.into_iter().zip(values).enumerate() {
            let Miss { position, key, .. } = &self.misses[miss];
            let value = value.unbind();
            let kept = Kept { value: value.clone_ref(call.py), cost_s };
            let stored = self.with_query(*position, |query| {
                call.parts.cache.put(call.py, query, key.clone(), kept, began)
            })?;
            evicted.extend(stored.evicted);
            replaced.extend(stored.replaced);
            recomputed += stored.recomputed;
            if let Some(outcome) = outcomes.get_mut(index) {
                *outcome = outcome.stored(stored.bytes);
            }
            if let Some(ticket) = ticket {
                ticket.finish(|| value.clone_ref(call.py));
            }
            self.values[*position] = Some(value);
        }
        call.count(Counts { passes: counts.misses, recomputed, ..counts })?;
        call.parts.stats.add_evicted(call.py, &evicted)?;
        call.write(&outcomes, None)
    }

    /// Waits for what other threads compute; gives the misses that are still open.
    fn wait(&mut self, theirs: Vec<Theirs>) -> PyResult<Vec<usize>> {
        let call = self.call;
        let mut open = Vec::new();
        for Theirs { miss, flight } in theirs {
            let counts = match call.flights.wait(call.py, &flight)? {
                Waited::Value { value, wait_s } => {
                    call.waited(&self.misses[miss].key, wait_s)?;
                    self.values[self.misses[miss].position] = Some(value);
                    continue;
                }
                Waited::Failed { wait_s } => Counts { wait_s, ..Counts::default() },
                Waited::Alone { wait_s } => {
                    self.misses[miss].alone = true;
                    Counts { wait_s, duplicates: 1, ..Counts::default() }
                }
            };
            call.count(counts)?;
            open.push(miss);
        }
        Ok(open)
    }

    /// Gives the prompts that stand for the second time the value of the first.
    fn repeat(&mut self) -> PyResult<()> {
        let call = self.call;
        if self.repeats.is_empty() {
            return Ok(());
        }
        for Repeat { position, miss } in &self.repeats {
            let first = self.values[self.misses[*miss].position].as_ref();
            self.values[*position] = first.map(|value| value.clone_ref(call.py));
        }
        let hits = self.repeats.len() as u64;
        call.count(Counts { hits, ..Counts::default() })?;
        let keys = self.repeats.iter().map(|repeat| &self.misses[repeat.miss].key);
        let names = keys.filter_map(|key| call.name(key).transpose());
        let repeats = self.repeats.len();
        let outcomes =
            names.map(|name| Ok(Outcome::hit(name?, 0.0).in_batch(self.id, repeats, 0.0)));
        call.write(&outcomes.collect::<PyResult<Vec<_>>>()?, None)
    }

    /// One outcome for each miss; each took its share of the batch.
    fn miss_outcomes(&self, mine: &[Mine<'_>], batch_wall_s: f64) -> PyResult<Vec<Outcome>> {
        let wall_s = batch_wall_s / mine.len() as f64;
        let names =
            mine.iter().filter_map(|mine| self.call.name(&self.misses[mine.miss].key).transpose());
        let outcome =
            |name| Outcome::miss(name, wall_s).in_batch(self.id, mine.len(), batch_wall_s);
        names.map(|name| name.map(outcome)).collect()
    }
}

/// One value for each prompt, or the exception that says why not.
fn checked_values(values: Bound<'_, PyAny>, asked: usize) -> PyResult<Vec<Bound<'_, PyAny>>> {
    let values = refuse_coroutine(values)?.try_iter()?;
    let values = values.map(|value| value.and_then(refuse_coroutine));
    let values = values.collect::<PyResult<Vec<_>>>()?;
    let given = values.len();
    if given == asked {
        return Ok(values);
    }
    Err(PyRuntimeError::new_err(format!(
        "compute_misses returned {given} values for {asked} prompts: backend bug"
    )))
}

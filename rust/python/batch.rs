//! One call of `cached_batch`: which prompts are there, which are computed, what each became.
//!
//! Events come in this order: the hits, then the misses, then the prompts that stood a second time
//! in the batch, which are hits of a value that was computed for the first.

use super::call::{Call, refuse_coroutine};
use super::key::{Query, SharedKey, check_prompt};
use super::parts::{Counts, Found, Outcome};
use crate::clock;
use crate::key::Name;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use std::collections::HashMap;

/// A prompt that has to be computed.
struct Miss {
    position: usize,
    key: SharedKey,
}

/// A prompt that stands for the second time: its position, and which miss it repeats.
struct Repeat {
    position: usize,
    miss: usize,
}

struct Batch<'c, 'a, 'py> {
    call: &'c Call<'a, 'py>,
    prompts: Vec<Bound<'py, PyAny>>,
    values: Vec<Option<Py<PyAny>>>,
    /// The name of each hit, where a trace needs it.
    hits: Vec<Option<Name>>,
    misses: Vec<Miss>,
    repeats: Vec<Repeat>,
    misses_of_hash: HashMap<u64, Vec<usize>>,
}

/// The values of all prompts, in order.
pub(super) fn run<'py>(
    call: &Call<'_, 'py>,
    prompts: &Bound<'py, PyAny>,
    compute_misses: &Bound<'py, PyAny>,
) -> PyResult<Vec<Py<PyAny>>> {
    let mut batch = Batch::new(call, checked_prompts(prompts)?);
    batch.look_up()?;
    batch.count_hits()?;
    batch.compute(compute_misses)?;
    Ok(batch.values.into_iter().flatten().collect())
}

/// # Errors
/// `TypeError` for a single `str`, whose characters would be taken for prompts.
fn checked_prompts<'py>(prompts: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    if prompts.is_instance_of::<PyString>() {
        let reason = "prompts must be a sequence of prompts, not a single str";
        return Err(PyTypeError::new_err(reason));
    }
    prompts.try_iter()?.collect()
}

impl<'c, 'a, 'py> Batch<'c, 'a, 'py> {
    fn new(call: &'c Call<'a, 'py>, prompts: Vec<Bound<'py, PyAny>>) -> Self {
        Self {
            call,
            values: Vec::with_capacity(prompts.len()),
            prompts,
            hits: Vec::new(),
            misses: Vec::new(),
            repeats: Vec::new(),
            misses_of_hash: HashMap::new(),
        }
    }

    fn look_up(&mut self) -> PyResult<()> {
        let call = self.call;
        for position in 0..self.prompts.len() {
            let prompt = self.prompts[position].clone();
            call.with_query(&prompt, |query| {
                let found = call.parts.cache.get(call.py, query, call.is_traced())?;
                match found {
                    Some(found) => self.hit(query, found),
                    None => self.miss(position, query),
                }
            })?;
        }
        Ok(())
    }

    fn hit(&mut self, query: &Query<'_, '_>, found: Found) -> PyResult<()> {
        self.values.push(Some(found.value));
        let name = match self.call.is_traced() {
            true => Some(query.name(found.key.as_ref())?),
            false => None,
        };
        self.hits.push(name);
        Ok(())
    }

    fn miss(&mut self, position: usize, query: &Query<'_, '_>) -> PyResult<()> {
        check_prompt(&self.prompts[position])?;
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
        self.misses.push(Miss { position, key });
        Ok(())
    }

    fn count_hits(&self) -> PyResult<()> {
        let call = self.call;
        let wall_s = call.elapsed_s();
        let hits = self.hits.len() as u64;
        call.parts.stats.add(call.py, Counts { hits, wall_s, ..Counts::default() })?;
        let share_s = wall_s / self.prompts.len() as f64;
        let outcomes = self.hits.iter().flatten();
        let outcomes = outcomes.map(|name| Outcome { name: *name, wall_s: share_s, hit: true });
        call.write(&outcomes.collect::<Vec<_>>(), None)
    }

    fn compute(&mut self, compute_misses: &Bound<'py, PyAny>) -> PyResult<()> {
        let call = self.call;
        let size = self.misses.len() as u64;
        if size == 0 {
            return Ok(());
        }
        let indices = self.misses.iter().map(|miss| miss.position).collect::<Vec<_>>();
        let began = clock::now();
        let computed = compute_misses.call1((PyList::new(call.py, indices)?,));
        let computed = computed.and_then(|values| self.checked_values(values));
        let wall_s = began.elapsed_s();
        let counts = Counts { misses: size, batch: size, wall_s, ..Counts::default() };
        match computed {
            Ok(values) => self.computed(values, counts),
            Err(error) => {
                call.failed(counts, &self.miss_outcomes(wall_s)?, &error)?;
                Err(error)
            }
        }
    }

    /// One value a miss, or the exception that says why not.
    fn checked_values(&self, values: Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let values = refuse_coroutine(values)?.try_iter()?;
        let values = values.map(|value| value.and_then(refuse_coroutine));
        let values = values.collect::<PyResult<Vec<_>>>()?;
        let (given, asked) = (values.len(), self.misses.len());
        if given == asked {
            return Ok(values);
        }
        Err(PyRuntimeError::new_err(format!(
            "compute_misses returned {given} values for {asked} prompts: backend bug"
        )))
    }

    /// Stores the values, counts and writes down misses and repeats.
    fn computed(&mut self, values: Vec<Bound<'py, PyAny>>, counts: Counts) -> PyResult<()> {
        let call = self.call;
        for (miss, value) in self.misses.iter().zip(&values) {
            let value = value.clone().unbind();
            self.values[miss.position] = Some(value.clone_ref(call.py));
            call.with_query(&self.prompts[miss.position], |query| {
                call.parts.cache.put(call.py, query, miss.key.clone(), value)
            })?;
        }
        for repeat in &self.repeats {
            self.values[repeat.position] = Some(values[repeat.miss].clone().unbind());
        }
        let hits = self.repeats.len() as u64;
        call.parts.stats.add(call.py, Counts { hits, passes: counts.misses, ..counts })?;
        call.write(&self.miss_outcomes(counts.wall_s)?, None)?;
        call.write(&self.repeat_outcomes()?, None)
    }

    /// One outcome a miss; each took its share of the batch.
    fn miss_outcomes(&self, batch_wall_s: f64) -> PyResult<Vec<Outcome>> {
        let wall_s = batch_wall_s / self.misses.len() as f64;
        self.outcomes(self.misses.iter().map(|miss| &miss.key), wall_s, false)
    }

    fn repeat_outcomes(&self) -> PyResult<Vec<Outcome>> {
        let keys = self.repeats.iter().map(|repeat| &self.misses[repeat.miss].key);
        self.outcomes(keys, 0.0, true)
    }

    fn outcomes<'k>(
        &self,
        keys: impl Iterator<Item = &'k SharedKey>,
        wall_s: f64,
        hit: bool,
    ) -> PyResult<Vec<Outcome>> {
        if !self.call.is_traced() {
            return Ok(Vec::new());
        }
        let name = |key: &SharedKey| key.name(self.call.py);
        keys.map(|key| Ok(Outcome { name: name(key)?, wall_s, hit })).collect()
    }
}

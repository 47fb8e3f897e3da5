//! Hits that are found without a hash, where threads take turns: by the place of the entry, or by a
//! guess of what the hash is.

use super::call::Call;
use super::hashes::Guess;
use super::key::Query;
use super::parts::{Found, Part, Seen};
use super::spots::Row;
use super::stored::Kept;
use crate::cache::Spot;
use pyo3::prelude::*;

impl<'py> Call<'_, 'py> {
    /// Remembers the place of the entry that was just read.
    #[inline]
    pub(super) fn remember(&self, prompt: &Bound<'py, PyAny>) {
        if let Part::Native(cache) = &self.parts.cache
            && !self.is_traced()
        {
            cache.get().remember(self.py, Row::of(&self.key, prompt));
        }
    }

    /// A value whose place is known, and the seconds that its computation took. `next` is the spot of
    /// the entry that may be next: prompts are mostly asked in the order of the last time.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(super) fn get_known(
        &self,
        prompt: &Bound<'py, PyAny>,
        next: &mut Option<Spot>,
    ) -> Option<(Py<PyAny>, f64)> {
        let Part::Native(cache) = &self.parts.cache else { return None };
        let read = |kept: &Kept| (kept.value.clone_ref(self.py), kept.cost_s);
        let (cache, row) = (cache.get(), Row::of(&self.key, prompt));
        // SAFETY: this very cache gave it.
        let guessed = next.and_then(|spot| unsafe { cache.lookup_at(self.py, spot, row, read) });
        // Only then: to look at the prompt itself takes a line of the processor's, 10 ns.
        let look = || self.hashes.kept(prompt).and_then(|_| cache.lookup_known(row, read));
        let (found, after) = guessed.or_else(look)?;
        *next = after;
        Some(found)
    }

    /// The value of a prompt that is found by the hash that it may have; makes the hash if it isn't.
    #[inline(never)]
    pub(super) fn hit_by_guess<S: Seen>(
        &self,
        prompt: &Bound<'py, PyAny>,
        guess: &Guess,
    ) -> PyResult<Option<Py<PyAny>>> {
        if let Some(hash) = guess.hash {
            let look = |query: &Query<'_, 'py>| {
                let found = self.parts.cache.get_at_once(self.py, query, &self.parts.trace);
                found.map(|found: Found<S>| self.hit(query, found)).transpose()
            };
            if let Some(value) = self.with_query_at(prompt, hash, look)? {
                return Ok(Some(value));
            }
        }
        self.hashes.learn_prompt(guess, prompt).map(|()| None)
    }
}

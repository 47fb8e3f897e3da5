//! What was invalidated, for computations that began before.
//!
//! An invalidation is written down here, raises the cache's generation, and then removes its entries.
//! An entry, or a value whose computation began in an older generation, is good only if no
//! invalidation since then was about its key.

use super::key::{SharedKey, StoredKey, Verdicts, all, compare};
use crate::cache::{EntryId, Match, Undecided};
use crate::sync::{Mutex, lock};
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::collections::VecDeque;

/// Invalidations that are told apart; a computation that is older than all of them is not stored.
const KEPT: usize = 64;

/// Which keys: of one op, of one view, of both, or all.
pub(super) struct Pattern<'a, 'py> {
    pub(super) op: Option<&'a Bound<'py, PyString>>,
    pub(super) view_id: Option<&'a Bound<'py, PyString>>,
}

impl StoredKey {
    /// Whether the key is of the pattern's op and view, as far as no Python code runs; for the rest,
    /// what Python said about the entry, if it was asked.
    pub(super) fn matches(
        &self,
        py: Python<'_>,
        pattern: &Pattern<'_, '_>,
        recall: Option<(&Verdicts, EntryId)>,
    ) -> Match {
        if pattern.op.is_none() && pattern.view_id.is_none() {
            return Match::Yes;
        }
        let Some((op, view_id)) = self.op_and_view() else {
            return Match::No;
        };
        let compare = |wanted: Option<&Bound<'_, PyString>>, field: &Py<PyAny>| {
            wanted.map_or(Match::Yes, |wanted| {
                compare(field.bind(py), &wanted.as_any().as_borrowed())
            })
        };
        match all([compare(pattern.op, op), compare(pattern.view_id, view_id)].into_iter()) {
            Match::Unknown => recall.map_or(Match::Unknown, |(verdicts, id)| verdicts.recall(id)),
            decided => decided,
        }
    }

    /// As [`StoredKey::matches`], by Python's equality.
    ///
    /// # Errors
    /// Those of `__eq__`.
    pub(super) fn matches_by_python(
        &self,
        py: Python<'_>,
        pattern: &Pattern<'_, '_>,
    ) -> PyResult<bool> {
        let Some((op, view_id)) = self.op_and_view() else {
            return Ok(false);
        };
        for (wanted, field) in [(pattern.op, op), (pattern.view_id, view_id)] {
            if let Some(wanted) = wanted
                && !field.bind(py).eq(wanted)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The log of invalidations, which is read only by a call that finds the cache's generation moved.
#[derive(Default)]
pub(super) struct Invalidations(Mutex<Log>);

#[derive(Default)]
struct Log {
    /// How many there were.
    count: u32,
    /// The last of them.
    last: VecDeque<Invalidation>,
}

pub(super) struct Invalidation {
    op: Option<Py<PyString>>,
    view_id: Option<Py<PyString>>,
}

impl Invalidations {
    /// Adds one, before the cache's generation moves; what is forgotten for it, to be dropped when
    /// nothing is held.
    pub(super) fn add(&self, pattern: &Pattern<'_, '_>) -> Option<Invalidation> {
        let keep = |text: Option<&Bound<'_, PyString>>| text.map(|text| text.clone().unbind());
        let invalidation = Invalidation { op: keep(pattern.op), view_id: keep(pattern.view_id) };
        let mut log = lock(&self.0);
        log.last.push_back(invalidation);
        log.count = log.count.wrapping_add(1);
        if log.last.len() > KEPT { log.last.pop_front() } else { None }
    }

    /// The present generation, if no invalidation since `began` was about `key`.
    pub(super) fn approve(&self, py: Python<'_>, began: u32, key: &StoredKey) -> Option<u32> {
        let log = lock(&self.0);
        let since = log.count.wrapping_sub(began) as usize;
        let is_good = since <= log.last.len()
            && log.last.iter().rev().take(since).all(|each| {
                let bind = |text: &'_ Option<Py<PyString>>| {
                    text.as_ref().map(|text| text.bind(py).clone())
                };
                let (op, view_id) = (bind(&each.op), bind(&each.view_id));
                let pattern = Pattern { op: op.as_ref(), view_id: view_id.as_ref() };
                key.matches(py, &pattern, None) == Match::No
            });
        is_good.then_some(log.count)
    }
}

impl Pattern<'_, '_> {
    /// Compares natively, or recalls what Python said about the entry.
    pub(super) fn compare(
        &self,
        py: Python<'_>,
        verdicts: &Verdicts,
        id: EntryId,
        key: &StoredKey,
    ) -> Match {
        key.matches(py, self, Some((verdicts, id)))
    }

    /// Asks Python. Nothing of the core is held.
    ///
    /// # Errors
    /// Those of `__eq__`.
    pub(super) fn ask(
        &self,
        py: Python<'_>,
        verdicts: &mut Verdicts,
        undecided: &Undecided<SharedKey>,
    ) -> PyResult<()> {
        let verdict = undecided.key.matches_by_python(py, self)?;
        verdicts.keep(undecided.id, verdict);
        Ok(())
    }
}

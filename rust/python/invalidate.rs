//! What was invalidated, for computations that began before.
//!
//! An invalidation raises the generation and removes its entries in one step. A value whose
//! computation began in an older generation isn't stored if any invalidation since then was about
//! its key.

use super::key::{SharedKey, StoredKey, Verdicts};
use crate::cache::{EntryId, Match, Undecided};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
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

#[derive(Default)]
pub(super) struct Invalidations {
    generation: AtomicU64,
    log: Mutex<VecDeque<Invalidation>>,
}

struct Invalidation {
    op: Option<Py<PyString>>,
    view_id: Option<Py<PyString>>,
}

impl Invalidations {
    /// How many there were; read it before a computation begins.
    pub(super) fn generation(&self) -> u64 {
        // Acquire: what was removed before is seen as removed.
        self.generation.load(Ordering::Acquire)
    }

    /// Adds one; its entries are removed before anybody can look.
    pub(super) fn add(&self, pattern: &Pattern<'_, '_>) {
        let keep = |text: Option<&Bound<'_, PyString>>| text.map(|text| text.clone().unbind());
        let invalidation = Invalidation { op: keep(pattern.op), view_id: keep(pattern.view_id) };
        let forgotten = {
            let mut log = lock(&self.log);
            log.push_back(invalidation);
            // Release: pairs with `generation`.
            self.generation.fetch_add(1, Ordering::Release);
            if log.len() > KEPT { log.pop_front() } else { None }
        };
        drop(forgotten);
    }

    /// Whether a value for `key` may be stored whose computation began in generation `began`.
    pub(super) fn admit(&self, py: Python<'_>, began: u64, key: &StoredKey) -> bool {
        let now = self.generation();
        if now == began {
            return true;
        }
        let log = lock(&self.log);
        let since = usize::try_from(now.saturating_sub(began)).unwrap_or(usize::MAX);
        since <= log.len()
            && log.iter().rev().take(since).all(|each| {
                let bind = |text: &'_ Option<Py<PyString>>| {
                    text.as_ref().map(|text| text.bind(py).clone())
                };
                let (op, view_id) = (bind(&each.op), bind(&each.view_id));
                let pattern = Pattern { op: op.as_ref(), view_id: view_id.as_ref() };
                key.matches(py, &pattern, None) == Match::No
            })
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

//! Numbers of the names that recur from call to call, found by identity.

use super::finish::finish_with_a_forked_child;
use super::identity::ByIdentity;
use super::key::integer;
use super::text::Text;
use crate::sync::Turns;
use crate::trace::{Caller, NameId, Run, TopK};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

const KNOWN: usize = 16;

/// What the objects that recur from call to call stand for, found by identity.
#[derive(Default)]
pub(super) struct KnownNames(Turns<Known>);

#[derive(Default)]
struct Known {
    run: u64,
    names: [Option<(Py<PyString>, NameId)>; KNOWN],
    top_k: Option<(Py<PyInt>, i64)>,
    /// By op, view, `top_k` and probe, and with the run whose numbers they hold.
    callers: ByIdentity<4, (u64, Caller)>,
}

impl KnownNames {
    /// The number of `text`, or of its `str`; None if it can't be written down.
    #[inline]
    pub(super) fn name(
        &self,
        py: Python<'_>,
        run: Run<'_>,
        text: &Bound<'_, PyAny>,
    ) -> PyResult<Option<NameId>> {
        if let Some(id) = self.find(run.id(), text) {
            return Ok(Some(id));
        }
        finish_with_a_forked_child(py);
        let exact = text.cast_exact::<PyString>().ok();
        let id = run.name(Text::of(&text.str()?)?.as_bytes());
        if let (Some(exact), Some(id)) = (exact, id) {
            self.keep(py, run.id(), exact, id);
        }
        Ok(id)
    }

    /// `top_k` as the trace writes it; None if its digits can't be written down.
    #[inline]
    pub(super) fn top_k(&self, run: Run<'_>, top_k: &Bound<'_, PyAny>) -> Option<TopK> {
        if let Some(integer) = self.find_top_k(top_k) {
            return Some(TopK::Integer(integer));
        }
        let Some(integer) = integer(top_k) else {
            return Some(TopK::None);
        };
        match i64::try_from(integer) {
            Ok(integer) => {
                self.keep_top_k(top_k, integer);
                Some(TopK::Integer(integer))
            }
            Err(_) => run.name(integer.to_string().as_bytes()).map(TopK::Digits),
        }
    }

    /// The caller that these very objects stand for, if it is known.
    #[inline]
    pub(super) fn caller(&self, run: Run<'_>, row: [&Bound<'_, PyAny>; 4]) -> Option<Caller> {
        let known = self.0.with(|known| known.callers.get(row));
        known.and_then(|(of, caller)| (of == run.id()).then_some(caller))
    }

    /// Remembers what these objects stand for.
    pub(super) fn keep_caller(
        &self,
        _py: Python<'_>,
        run: Run<'_>,
        row: [&Bound<'_, PyAny>; 4],
        caller: Caller,
    ) {
        let _before = self.0.with(|known| known.callers.keep(row, (run.id(), caller)));
    }

    #[inline]
    fn find(&self, run: u64, text: &Bound<'_, PyAny>) -> Option<NameId> {
        let slot = slot_of(text);
        self.0.with(|known| match &known.names[slot] {
            Some((held, id)) if known.run == run && held.is(text) => Some(*id),
            _ => None,
        })
    }

    #[inline]
    fn find_top_k(&self, top_k: &Bound<'_, PyAny>) -> Option<i64> {
        self.0.with(|known| match &known.top_k {
            Some((held, integer)) if held.is(top_k) => Some(*integer),
            _ => None,
        })
    }

    fn keep_top_k(&self, top_k: &Bound<'_, PyAny>, integer: i64) {
        if let Ok(exact) = top_k.cast_exact::<PyInt>() {
            let entry = (exact.clone().unbind(), integer);
            let _before = self.0.with(|known| known.top_k.replace(entry));
        }
    }

    fn keep(&self, _py: Python<'_>, run: u64, text: &Bound<'_, PyString>, id: NameId) {
        let (slot, entry) = (slot_of(text), (text.clone().unbind(), id));
        // What was known before is dropped here, with nothing held.
        let _before = self.0.with(|known| {
            if known.run != run {
                let names = std::mem::take(&mut known.names);
                (known.run, known.names[slot]) = (run, Some(entry));
                return (Some(names), None);
            }
            (None, known.names[slot].replace(entry))
        });
    }
}

#[inline]
fn slot_of(text: &Bound<'_, PyAny>) -> usize {
    let address = text.as_ptr() as usize;
    (address >> 4 ^ address >> 9) % KNOWN
}

//! Numbers of the names that calls bring again and again, found by identity.

use crate::sync::Turns;
use crate::trace::NameId;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

const KNOWN: usize = 16;

/// What the objects that calls bring again and again stand for, found by identity.
#[derive(Default)]
pub(super) struct KnownNames(Turns<Known>);

#[derive(Default)]
struct Known {
    run: u64,
    names: [Option<(Py<PyString>, NameId)>; KNOWN],
    top_k: Option<(Py<PyInt>, i64)>,
}

impl KnownNames {
    #[inline]
    pub(super) fn find(&self, run: u64, text: &Bound<'_, PyAny>) -> Option<NameId> {
        let slot = slot_of(text);
        self.0.with(|known| match &known.names[slot] {
            Some((held, id)) if known.run == run && held.is(text) => Some(*id),
            _ => None,
        })
    }

    #[inline]
    pub(super) fn find_top_k(&self, top_k: &Bound<'_, PyAny>) -> Option<i64> {
        self.0.with(|known| match &known.top_k {
            Some((held, integer)) if held.is(top_k) => Some(*integer),
            _ => None,
        })
    }

    pub(super) fn keep_top_k(&self, top_k: &Bound<'_, PyAny>, integer: i64) {
        if let Ok(exact) = top_k.cast_exact::<PyInt>() {
            let entry = (exact.clone().unbind(), integer);
            let _before = self.0.with(|known| known.top_k.replace(entry));
        }
    }

    pub(super) fn keep(&self, _py: Python<'_>, run: u64, text: &Bound<'_, PyString>, id: NameId) {
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

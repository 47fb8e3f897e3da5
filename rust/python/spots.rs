//! Where the entries of the last keys of `cached` were, by the identity of the objects that were asked.
//!
//! A probe suite asks with the same objects again and again: then nothing is hashed and nothing compared.
//! An object is known by its address only while it is kept alive, so only what an entry itself keeps
//! is remembered, and only until anything leaves the cache. Only objects of CPython's own classes, whose
//! hash and equality nobody else has a say in.

use super::hashes::{OtherFields, PROMPT};
use super::identity::is_its_identity;
use super::key::StoredKey;
use crate::cache::Spot;
use pyo3::prelude::*;

const SLOTS: usize = 2_048;
/// Five addresses, the last of them 0 without a scope, a spot's two numbers, and nothing: a line of the
/// processor's.
type Slot = [u64; 8];

/// Spots of one cache.
#[derive(Default)]
pub(super) struct Spots {
    /// Made when the first is kept; what was never written takes no memory.
    slots: Vec<Slot>,
    others: u8,
}

/// The objects of a key of `cached`, by their addresses.
#[derive(Clone, Copy)]
pub(super) struct Row([u64; 5]);

impl Row {
    #[inline(always)]
    pub(super) fn of(others: &OtherFields<'_, '_>, prompt: &Bound<'_, PyAny>) -> Self {
        let at = |object: &Bound<'_, PyAny>| object.as_ptr() as u64;
        let OtherFields { op, view_id, top_k, scope } = others;
        Self([at(op), at(view_id), at(prompt), at(top_k), scope.map_or(0, at)])
    }

    #[inline(always)]
    fn slot(self) -> usize {
        let Self([op, view_id, prompt, ..]) = self;
        // Objects lie at multiples of 16 bytes.
        (prompt >> 4).wrapping_add(view_id >> 3).wrapping_add(op >> 5) as usize % SLOTS
    }
}

impl Spots {
    /// Where the entry of these very objects was.
    #[inline(always)]
    pub(super) fn get(&self, row: Row) -> Option<Spot> {
        let [op, view_id, prompt, top_k, scope, place, removals, _] =
            *self.slots.get(row.slot())?;
        let known = [op, view_id, prompt, top_k, scope];
        // Without a branch for each: they are the same nearly always.
        let other = known.iter().zip(row.0).fold(0, |other, (known, asked)| other | known ^ asked);
        (other == 0).then_some(Spot { place: place as usize, removals })
    }

    /// Remembers a spot; one that is still good gives way for one in eight others, so that of many more
    /// keys than slots some stay.
    #[inline(never)]
    pub(super) fn keep(&mut self, row: Row, spot: Spot) {
        if self.slots.is_empty() {
            self.slots = vec![[0; 8]; SLOTS];
        }
        self.others = self.others.wrapping_add(1);
        if self.slots[row.slot()][6] == spot.removals && !self.others.is_multiple_of(8) {
            return;
        }
        let [op, view_id, prompt, top_k, scope] = row.0;
        let Spot { place, removals } = spot;
        self.slots[row.slot()] = [op, view_id, prompt, top_k, scope, place as u64, removals, 0];
    }
}

impl StoredKey {
    /// Whether the key is made of just these objects, and their identity says what they are.
    #[inline]
    pub(super) fn is_made_of(&self, py: Python<'_>, Row(asked): Row) -> bool {
        let fields = self.plain_fields();
        let same = |(field, asked): (&Py<PyAny>, &u64)| field.as_ptr() as u64 == *asked;
        // The prompt first: it is the one that nearly always decides.
        fields.len() == 4 + usize::from(asked[4] != 0)
            && same((&fields[PROMPT], &asked[PROMPT]))
            && fields.iter().zip(&asked).all(same)
            && fields.iter().all(|field| is_its_identity(field.bind(py)))
    }
}

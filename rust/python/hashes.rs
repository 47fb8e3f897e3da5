//! The share that the fields other than the prompt have in a key's hash, remembered from call to
//! call.

#[cfg(take_turns)]
use super::identity::ByIdentity;
use super::key::with_share;
use crate::key::Shares;
#[cfg(take_turns)]
use crate::sync::Turns;
use pyo3::prelude::*;
#[cfg(take_turns)]
use pyo3::types::PyNone;

/// Where the prompt stands in a key `(op, view_id, prompt, top_k[, scope])`.
pub(super) const PROMPT: usize = 2;

/// The fields of a key other than its prompt.
#[derive(Clone, Copy)]
pub(super) struct OtherFields<'a, 'py> {
    pub(super) op: &'a Bound<'py, PyAny>,
    pub(super) view_id: &'a Bound<'py, PyAny>,
    pub(super) top_k: &'a Bound<'py, PyAny>,
    pub(super) scope: Option<&'a Bound<'py, PyAny>>,
}

impl OtherFields<'_, '_> {
    /// # Errors
    /// Those of a field's `__hash__`.
    fn shares(&self) -> PyResult<Shares> {
        let shares = with_share(Shares::default(), 0, self.op)?;
        let shares = with_share(shares, 1, self.view_id)?;
        let shares = with_share(shares, PROMPT + 1, self.top_k)?;
        self.scope.map_or(Ok(shares), |scope| with_share(shares, PROMPT + 2, scope))
    }
}

/// Remembers the shares of the last few calls' fields.
#[derive(Default)]
pub(super) struct Hashes {
    // Where threads run at once, sharing this would cost more than it saves.
    #[cfg(take_turns)]
    known: Turns<ByIdentity<4, Shares>>,
}

impl Hashes {
    /// The shares of all fields but the prompt.
    ///
    /// # Errors
    /// Those of a field's `__hash__`.
    #[cfg(take_turns)]
    #[inline]
    pub(super) fn shares(&self, fields: &OtherFields<'_, '_>) -> PyResult<Shares> {
        let OtherFields { op, view_id, top_k, scope } = *fields;
        let no_scope = PyNone::get(op.py());
        let row = [op, view_id, top_k, scope.unwrap_or(&no_scope)];
        match self.known.with(|known| known.get(row)) {
            Some(shares) => Ok(shares),
            None => self.learn(fields, row),
        }
    }

    #[cfg(take_turns)]
    #[cold]
    fn learn(&self, fields: &OtherFields<'_, '_>, row: [&Bound<'_, PyAny>; 4]) -> PyResult<Shares> {
        Python::attach(|_| {
            let shares = fields.shares()?;
            let _forgotten = self.known.with(|known| known.keep(row, shares));
            Ok(shares)
        })
    }

    /// The shares of all fields but the prompt.
    ///
    /// # Errors
    /// Those of a field's `__hash__`.
    #[cfg(not(take_turns))]
    pub(super) fn shares(&self, fields: &OtherFields<'_, '_>) -> PyResult<Shares> {
        fields.shares()
    }
}

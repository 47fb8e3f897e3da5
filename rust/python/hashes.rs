//! What the fields of a key add to its hash, remembered from call to call.

#[cfg(take_turns)]
use super::identity::ByIdentity;
use super::key::with_share;
#[cfg(take_turns)]
use super::prompt_hash::{Fingerprint, PromptHashes};
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

/// Remembers the shares of the last few calls' fields, and hashes of prompts.
// Where threads run at once, sharing this would cost more than it saves.
pub(super) struct Hashes {
    #[cfg(take_turns)]
    known: Turns<ByIdentity<4, Shares>>,
    #[cfg(take_turns)]
    prompts: Turns<PromptHashes>,
}

/// A guess of a prompt's hash, and what to learn by if it was wrong.
#[cfg(take_turns)]
pub(super) struct Guess {
    of: Fingerprint,
    pub(super) hash: Option<u64>,
}

#[cfg(take_turns)]
impl Hashes {
    /// # Errors
    /// That of memory.
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self { known: Turns::default(), prompts: Turns::new(PromptHashes::new(py)?) })
    }

    /// The hash of a prompt, if CPython has made it and it can be read.
    #[inline(always)]
    pub(super) fn kept(&self, prompt: &Bound<'_, PyAny>) -> Option<u64> {
        self.prompts.with(|prompts| prompts.kept(prompt))
    }

    /// A guess for a long prompt whose hash isn't made yet.
    pub(super) fn guess(&self, prompt: &Bound<'_, PyAny>) -> Option<Guess> {
        self.prompts.with(|prompts| {
            let of = prompts.fingerprint(prompt)?;
            Some(Guess { of, hash: prompts.guess(of) })
        })
    }

    /// Makes the hash of a prompt for which there was none, or a wrong one.
    ///
    /// # Errors
    /// That of memory.
    pub(super) fn learn_prompt(&self, guess: &Guess, prompt: &Bound<'_, PyAny>) -> PyResult<()> {
        let hash = prompt.hash()? as u64;
        self.prompts.with(|prompts| prompts.learn(guess.of, hash));
        Ok(())
    }
}

#[cfg(not(take_turns))]
impl Hashes {
    pub(super) fn new(_: Python<'_>) -> PyResult<Self> {
        Ok(Self {})
    }

    /// Another thread may be making it.
    #[inline(always)]
    pub(super) fn kept(&self, _: &Bound<'_, PyAny>) -> Option<u64> {
        None
    }
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

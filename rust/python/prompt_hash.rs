//! The hash of a prompt, without asking CPython for it where that can be saved.
//!
//! CPython keeps the hash of a `str` in the object, so it is read from there. One that is not there yet
//! takes 0.4 ns a byte to make; a long `str` that is new but equal to one that came before is
//! recognized by its length and a few of its characters, and the hash of that one is *guessed* to be
//! its own. A guess only says where to look: what is found there is compared in full, and if it isn't
//! equal the hash is made.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// Characters from which on a guess takes less time than the hash.
const LONG: usize = 256;
const SLOTS: usize = 1_024;
/// What CPython has for a hash that isn't made yet.
const NOT_MADE: isize = -1;

/// What CPython keeps of a `str`, by the places that the fields have had in every release.
#[repr(C)]
struct Fields {
    header: ffi::PyObject,
    length: ffi::Py_ssize_t,
    hash: ffi::Py_hash_t,
}

#[inline]
#[allow(unsafe_code)]
fn fields<'a>(text: &'a Bound<'_, PyString>) -> &'a Fields {
    // SAFETY: a `str` is at least that large in every release from 3.3 on, and alive as long as `text`;
    // who has the turn is the only one to write there. Whether the fields have these places is for
    // `are_as_expected` to say; until then they are numbers that mean nothing.
    unsafe { &*text.as_ptr().cast() }
}

/// Whether this interpreter keeps length and hash where they are looked for.
fn are_as_expected(py: Python<'_>) -> PyResult<bool> {
    static ANSWER: PyOnceLock<bool> = PyOnceLock::new();
    ANSWER
        .get_or_try_init(py, || {
            for text in
                ["a prompt of ASCII", "\u{e9}\u{e8}", "\u{3b1}\u{3b2}\u{3b3}", "\u{1f600} wide"]
            {
                let fresh = PyString::new(py, text);
                let is_there = |hash| {
                    let Fields { length, hash: kept, .. } = *fields(&fresh);
                    length == text.chars().count() as isize && kept == hash
                };
                if !is_there(NOT_MADE) || !is_there(fresh.hash()?) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .copied()
}

/// Reads hashes, and guesses them.
pub(super) struct PromptHashes {
    reads: bool,
    /// By fingerprint; made when the first hash is learned.
    known: Option<Box<[(u64, u64); SLOTS]>>,
}

/// By what a long `str` is recognized.
#[derive(Clone, Copy)]
pub(super) struct Fingerprint(u64);

impl PromptHashes {
    /// # Errors
    /// That of memory.
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self { reads: are_as_expected(py)?, known: None })
    }

    /// The hash of a prompt, if CPython has it already.
    #[inline]
    pub(super) fn kept(&self, prompt: &Bound<'_, PyAny>) -> Option<u64> {
        let text = prompt.cast_exact::<PyString>().ok().filter(|_| self.reads)?;
        let hash = fields(text).hash;
        (hash != NOT_MADE).then_some(hash as u64)
    }

    /// The fingerprint of a long prompt whose hash is not made yet.
    #[inline]
    pub(super) fn fingerprint(&self, prompt: &Bound<'_, PyAny>) -> Option<Fingerprint> {
        let text = prompt.cast_exact::<PyString>().ok().filter(|_| self.reads)?;
        let Fields { length, hash, .. } = *fields(text);
        let is_long = hash == NOT_MADE && length as usize >= LONG;
        is_long.then(|| Fingerprint::of(text, length as usize))
    }

    /// What the hash may be.
    pub(super) fn guess(&self, Fingerprint(of): Fingerprint) -> Option<u64> {
        let (known, hash) = self.known.as_ref()?[of as usize % SLOTS];
        (known == of).then_some(hash)
    }

    /// Remembers a hash that was made.
    pub(super) fn learn(&mut self, Fingerprint(of): Fingerprint, hash: u64) {
        let known = self.known.get_or_insert_with(|| Box::new([(0, 0); SLOTS]));
        known[of as usize % SLOTS] = (of, hash);
    }
}

impl Fingerprint {
    #[allow(unsafe_code)]
    fn of(text: &Bound<'_, PyString>, length: usize) -> Self {
        let last = length - 1;
        // At both ends, where prompts mostly differ, and between.
        let places =
            [13, 40, length / 3, length / 2, length / 3 * 2, last - 33, last - 9, last - 1];
        let mut mixed = length as u64;
        for place in places {
            // SAFETY: a `str`, and a place within it; it raises nothing for such.
            let character = unsafe { ffi::PyUnicode_ReadChar(text.as_ptr(), place as isize) };
            mixed =
                (mixed.rotate_left(7) ^ u64::from(character)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        Self(mixed ^ mixed >> 32)
    }
}

//! Python objects as keys: their hash, their equality, their name in the trace.
//!
//! A key is a tuple of any length, held as its fields, so that `cached` needs no tuple to look one
//! up; any other hashable object is held as a single *opaque* field. Two keys are compared here
//! only as far as no Python code runs: exact `str`, `bytes`, `int`, `float`, `bool`, `None` and
//! tuples of them. For anything else the answer is [`Match::Unknown`], and [`Verdicts`] asks
//! Python once the cache is free again.

use super::text::Text;
use crate::cache::{EntryId, Match, Undecided};
use crate::key::{KeyText, Name, Salt, Shares, hash_prefix, name};
use crate::sync::OnceLock;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString, PyTuple};
use pyo3::{Borrowed, PyTraverseError, PyVisit, ffi, intern};
use smallvec::SmallVec;
use std::sync::Arc;

/// A field that somebody else keeps alive.
pub(super) type Field<'a, 'py> = Borrowed<'a, 'py, PyAny>;

/// What the cache stores as a key.
pub(super) type SharedKey = Arc<StoredKey>;

pub(super) struct StoredKey {
    /// A key of `cached` has four or five; they lie here, without an allocation of their own.
    // With smallvec's feature `union` a key is 16 bytes smaller, lies across the processor's lines more
    // often, and a hit among a million takes a quarter longer (`benches/large.py`).
    fields: SmallVec<[Py<PyAny>; 5]>,
    opaque: bool,
    /// Made once per entry, when a trace first needs it.
    name: OnceLock<Box<(Option<u64>, Name)>>,
}

/// A key that is looked for.
pub(super) struct Query<'a, 'py> {
    py: Python<'py>,
    fields: &'a [Field<'a, 'py>],
    opaque: bool,
    pub(super) hash: u64,
}

const TUPLE_TAG: u64 = 0;
const OPAQUE_TAG: u64 = 1;

impl<'a, 'py> Query<'a, 'py> {
    /// The key of the tuple that `fields` would make; `shares` are those of all of them.
    #[inline]
    pub(super) fn of_fields(py: Python<'py>, fields: &'a [Field<'a, 'py>], shares: Shares) -> Self {
        Self { py, fields, opaque: false, hash: shares.hash(fields.len(), TUPLE_TAG) }
    }

    fn new(py: Python<'py>, fields: &'a [Field<'a, 'py>], opaque: bool) -> PyResult<Self> {
        let add = |shares, (position, field): (usize, &Field<'_, 'py>)| {
            with_share(shares, position, field)
        };
        let shares = fields.iter().enumerate().try_fold(Shares::default(), add)?;
        let hash = shares.hash(fields.len(), if opaque { OPAQUE_TAG } else { TUPLE_TAG });
        Ok(Self { py, fields, opaque, hash })
    }

    /// Runs `look` with the query of any hashable object.
    ///
    /// # Errors
    /// `TypeError` if `key` is not hashable, and those of `look`.
    pub(super) fn with<R>(
        key: &Bound<'py, PyAny>,
        look: impl FnOnce(&Query<'_, 'py>) -> PyResult<R>,
    ) -> PyResult<R> {
        let py = key.py();
        match as_plain_tuple(key)? {
            Some(tuple) => {
                let fields: Vec<_> = tuple.iter().collect();
                let fields: Vec<_> = fields.iter().map(Bound::as_borrowed).collect();
                look(&Query::new(py, &fields, false)?)
            }
            None => look(&Query::new(py, &[key.as_borrowed()], true)?),
        }
    }

    pub(super) fn py(&self) -> Python<'py> {
        self.py
    }

    pub(super) fn fields(&self) -> &'a [Field<'a, 'py>] {
        self.fields
    }

    /// The key to store.
    pub(super) fn store(&self) -> SharedKey {
        let fields = self.fields.iter().map(|field| Bound::clone(field).unbind());
        Arc::new(StoredKey { fields: fields.collect(), opaque: self.opaque, name: OnceLock::new() })
    }

    /// Compares with a stored key as far as no Python code runs.
    #[inline(always)]
    pub(super) fn compare(&self, stored: &StoredKey) -> Match {
        let (is_opaque, stored) = (stored.opaque, stored.fields.as_slice());
        // Only a single field can be opaque; of longer keys the flag isn't even read.
        if self.fields.len() != stored.len() || stored.len() == 1 && self.opaque != is_opaque {
            return Match::No;
        }
        // Nearly always all but the third, the prompt of a key of `cached`, are the same objects.
        if let ([a, b, c, d, rest @ ..], [e, f, g, h, others @ ..]) = (stored, self.fields)
            && a.is(e) & b.is(f) & d.is(h)
            && rest.iter().zip(others).all(|(stored, field)| stored.is(field))
        {
            return compare(c.bind(self.py), g);
        }
        let pairs = stored.iter().zip(self.fields);
        all(pairs.map(|(stored, field)| compare(stored.bind(self.py), field)))
    }

    /// Whether two keys in hand are equal, by Python if need be.
    ///
    /// # Errors
    /// Those of `__eq__`.
    pub(super) fn equals(&self, stored: &StoredKey) -> PyResult<bool> {
        match self.compare(stored) {
            Match::Yes => Ok(true),
            Match::No => Ok(false),
            Match::Unknown => self.ask_python(stored),
        }
    }

    fn ask_python(&self, stored: &StoredKey) -> PyResult<bool> {
        for (stored, field) in stored.fields.iter().zip(self.fields) {
            let stored = stored.bind(self.py);
            if !stored.is(field) && !stored.eq(field)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The shares with that of the field at `position`.
///
/// # Errors
/// That of the field's `__hash__`.
#[inline]
pub(super) fn with_share(
    shares: Shares,
    position: usize,
    field: &Bound<'_, PyAny>,
) -> PyResult<Shares> {
    Ok(shares.with(position, field.hash()? as u64))
}

/// `key` as a tuple, if it hashes and compares as one: a named tuple does, a subclass with an
/// equality of its own is an object like any other.
fn as_plain_tuple<'a, 'py>(
    key: &'a Bound<'py, PyAny>,
) -> PyResult<Option<&'a Bound<'py, PyTuple>>> {
    let Ok(tuple) = key.cast::<PyTuple>() else {
        return Ok(None);
    };
    if key.is_exact_instance_of::<PyTuple>() {
        return Ok(Some(tuple));
    }
    let (own, plain) = (key.get_type(), key.py().get_type::<PyTuple>());
    for method in [intern!(key.py(), "__eq__"), intern!(key.py(), "__hash__")] {
        if !own.getattr(method)?.is(&plain.getattr(method)?) {
            return Ok(None);
        }
    }
    Ok(Some(tuple))
}

/// What Python said about entries that only it can compare.
#[derive(Default)]
pub(super) struct Verdicts(Vec<(EntryId, bool)>);

impl Verdicts {
    /// Compares natively, or recalls what Python said.
    #[inline(always)]
    pub(super) fn compare(&self, id: EntryId, query: &Query<'_, '_>, stored: &StoredKey) -> Match {
        match query.compare(stored) {
            Match::Unknown => self.recall(id),
            decided => decided,
        }
    }

    pub(super) fn recall(&self, id: EntryId) -> Match {
        match self.0.iter().find(|(known, _)| *known == id) {
            Some((_, true)) => Match::Yes,
            Some((_, false)) => Match::No,
            None => Match::Unknown,
        }
    }

    /// Remembers what Python said about an entry.
    pub(super) fn keep(&mut self, id: EntryId, verdict: bool) {
        self.0.push((id, verdict));
    }

    /// Asks Python. Nothing of the core is held.
    #[cold]
    pub(super) fn ask(
        &mut self,
        query: &Query<'_, '_>,
        undecided: &Undecided<SharedKey>,
    ) -> PyResult<()> {
        self.0.push((undecided.id, query.ask_python(&undecided.key)?));
        Ok(())
    }
}

/// The classes whose equality CPython decides without running Python code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Str,
    Bytes,
    Number,
    None,
    Tuple,
    Foreign,
}

fn class_of(object: &Bound<'_, PyAny>) -> Class {
    if object.is_exact_instance_of::<PyString>() {
        Class::Str
    } else if object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyFloat>()
    {
        Class::Number
    } else if object.is_exact_instance_of::<PyBytes>() {
        Class::Bytes
    } else if object.is_exact_instance_of::<PyTuple>() {
        Class::Tuple
    } else if object.is_none() {
        Class::None
    } else {
        Class::Foreign
    }
}

#[inline]
pub(super) fn compare(stored: &Bound<'_, PyAny>, field: &Bound<'_, PyAny>) -> Match {
    if stored.is(field) { Match::Yes } else { compare_others(stored, field) }
}

fn compare_others(stored: &Bound<'_, PyAny>, field: &Bound<'_, PyAny>) -> Match {
    if let (Ok(stored), Ok(field)) = (stored.cast_exact(), field.cast_exact()) {
        return compare_texts(stored, field);
    }
    match (class_of(stored), class_of(field)) {
        (Class::Foreign, _) | (_, Class::Foreign) => Match::Unknown,
        (Class::Tuple, Class::Tuple) => compare_tuples(stored, field),
        (one, other) if one == other => match stored.eq(field) {
            Ok(true) => Match::Yes,
            Ok(false) => Match::No,
            // Out of memory; Python will say so itself.
            Err(_) => Match::Unknown,
        },
        _ => Match::No,
    }
}

/// As `==` does, without its way through the classes' tables: half of what it costs.
#[allow(unsafe_code)]
fn compare_texts(stored: &Bound<'_, PyString>, field: &Bound<'_, PyString>) -> Match {
    // SAFETY: both are `str`, and alive; the result is a new reference or null with an error set.
    let equal = unsafe {
        let equal = ffi::PyUnicode_RichCompare(stored.as_ptr(), field.as_ptr(), ffi::Py_EQ);
        Bound::from_owned_ptr_or_err(stored.py(), equal)
    };
    match equal {
        Ok(equal) if equal.is(&*PyBool::new(stored.py(), true)) => Match::Yes,
        Ok(_) => Match::No,
        // Out of memory; Python will say so itself.
        Err(_) => Match::Unknown,
    }
}

fn compare_tuples(stored: &Bound<'_, PyAny>, field: &Bound<'_, PyAny>) -> Match {
    match (stored.cast_exact::<PyTuple>(), field.cast_exact::<PyTuple>()) {
        (Ok(stored), Ok(field)) if stored.len() == field.len() => {
            all(stored.iter().zip(field).map(|(stored, field)| compare(&stored, &field)))
        }
        _ => Match::No,
    }
}

/// One difference decides; otherwise one open question leaves it open.
#[inline]
pub(super) fn all(matches: impl Iterator<Item = Match>) -> Match {
    let mut answer = Match::Yes;
    for each in matches {
        match each {
            Match::No => return Match::No,
            Match::Unknown => answer = Match::Unknown,
            Match::Yes => {}
        }
    }
    answer
}

impl StoredKey {
    /// The fields of a tuple; nothing for an opaque key.
    #[cfg(take_turns)]
    pub(super) fn plain_fields(&self) -> &[Py<PyAny>] {
        if self.opaque { &[] } else { &self.fields }
    }

    /// Drops the fields.
    pub(super) fn let_go(self, py: Python<'_>) {
        self.fields.into_iter().for_each(|field| field.drop_ref(py));
    }

    /// Hash prefix and digest of a key `(op, view_id, prompt, top_k[, scope])`, made once.
    ///
    /// # Errors
    /// `TypeError` if a field is not of the type that `cached` takes.
    pub(super) fn name(&self, py: Python<'_>, salt: Option<&Salt>) -> PyResult<Name> {
        if let Some(name) = self.made_name(salt) {
            return Ok(*name);
        }
        let name = name_of(self.fields.each_bound(py).as_slice(), salt)?;
        // A cache that traces with different salts share is named for the first of them.
        let _ = self.name.set(Box::new((salt.map(Salt::id), name)));
        Ok(name)
    }

    /// The op and the view of a key `(op, view_id, prompt, top_k[, scope])`.
    pub(super) fn op_and_view(&self) -> Option<(&Py<PyAny>, &Py<PyAny>)> {
        match self.fields.as_slice() {
            [op, view_id, _, _] | [op, view_id, _, _, _] => Some((op, view_id)),
            _ => None,
        }
    }

    /// The name, if it was made before with this salt.
    #[inline]
    pub(super) fn made_name(&self, salt: Option<&Salt>) -> Option<&Name> {
        let (by, name) = self.name.get()?.as_ref();
        (*by == salt.map(Salt::id)).then_some(name)
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.fields.iter().try_for_each(|field| visit.call(field))
    }
}

trait EachBound {
    fn each_bound<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>>;
}

impl EachBound for [Py<PyAny>] {
    fn each_bound<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        self.iter().map(|field| field.bind(py).clone()).collect()
    }
}

/// Hash prefix and digest of the fields `op, view_id, prompt, top_k[, scope]`.
///
/// # Errors
/// `TypeError` naming the field that has another type than `cached` takes.
pub(super) fn name_of(fields: &[Bound<'_, PyAny>], salt: Option<&Salt>) -> PyResult<Name> {
    let [op, view_id, prompt, top_k, scope @ ..] = fields else {
        return Err(PyTypeError::new_err("a traced key has at least four fields"));
    };
    // As text, whatever they are: a trace must not refuse what goes without one.
    let (op, view_id) = (op.str()?, view_id.str()?);
    let (op, view_id) = (Text::of(&op)?, Text::of(&view_id)?);
    let scope = scope.first().map(Bound::cast::<PyBytes>).transpose()?;
    let (is_tuple, top_k) = (prompt.is_instance_of::<PyTuple>(), integer(top_k));
    with_prompt(prompt, |prompt| {
        name(
            salt,
            &KeyText {
                op: op.as_bytes(),
                view_id: view_id.as_bytes(),
                prompt,
                is_tuple,
                top_k,
                scope: scope.map_or(b"", |scope| scope.as_bytes()),
            },
        )
    })
}

/// `object` as `str`, or a `TypeError` that names the argument.
pub(super) fn as_str<'a, 'py>(
    object: &'a Bound<'py, PyAny>,
    argument: &str,
) -> PyResult<&'a Bound<'py, PyString>> {
    object.cast::<PyString>().map_err(|_| {
        let given = object.get_type();
        PyTypeError::new_err(format!("{argument} must be str, not {given}"))
    })
}

/// The integer that `object` equals, if it is one: 256, 256.0, True and `Decimal(256)` are.
pub(super) fn integer(object: &Bound<'_, PyAny>) -> Option<i128> {
    if let Ok(integer) = object.extract::<i64>() {
        return Some(integer.into());
    }
    // An object that is no number, or that raises when it is made one, equals no integer.
    let integer = object.py().get_type::<PyInt>().call1((object,)).ok()?;
    let equal = !object.is_instance_of::<PyString>() && integer.eq(object).ok()?;
    if equal { integer.extract().ok() } else { None }
}

/// Checks that `prompt` is what `cached` takes: a `str`, or a tuple of them.
///
/// # Errors
/// `TypeError`.
pub(super) fn check_prompt(prompt: &Bound<'_, PyAny>) -> PyResult<()> {
    if prompt.is_instance_of::<PyString>() {
        return Ok(());
    }
    prompt_fields(prompt).map(drop)
}

fn prompt_fields<'py>(prompt: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyString>>> {
    if let Ok(text) = prompt.cast::<PyString>() {
        return Ok(vec![text.clone()]);
    }
    let fields = prompt.cast::<PyTuple>().ok().map(|fields| fields.iter());
    let strings = fields.map(|fields| fields.map(|field| field.cast_into().ok()).collect());
    strings.flatten().ok_or_else(|| {
        let given = prompt.get_type();
        PyTypeError::new_err(format!("prompt must be str or a tuple of str, not {given}"))
    })
}

fn with_prompt<R>(prompt: &Bound<'_, PyAny>, run: impl FnOnce(&[&[u8]]) -> R) -> PyResult<R> {
    let fields = prompt_fields(prompt)?;
    let texts = fields.iter().map(Text::of).collect::<PyResult<Vec<_>>>()?;
    let texts: Vec<_> = texts.iter().map(Text::as_bytes).collect();
    Ok(run(&texts))
}

/// First 12 hex digits of the SHA-1 of the UTF-8 prompt: how a trace names it, never its key.
///
/// A prompt of several fields is hashed with its fields joined by NUL; a lone surrogate counts as
/// its three bytes (`surrogatepass`).
///
/// Args:
///     prompt: The text, or a tuple of texts.
///
/// Returns:
///     12 lower-case hex digits.
///
/// Raises:
///     TypeError: `prompt` is neither.
#[pyfunction]
pub(super) fn prompt_hash(prompt: &Bound<'_, PyAny>) -> PyResult<String> {
    let digits = with_prompt(prompt, |prompt| hash_prefix(None, prompt))?;
    Ok(digits.iter().map(|&digit| char::from(digit)).collect())
}

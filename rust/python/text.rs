//! Python `str` as generalized UTF-8, without panics on lone surrogates.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// The text of a `str`, borrowed where CPython holds it as ASCII.
pub(super) enum Text<'a, 'py> {
    Ascii(&'a str),
    Encoded(Bound<'py, PyBytes>),
}

impl<'a, 'py> Text<'a, 'py> {
    /// Encodes `text`. Asking a non-ASCII `str` for its UTF-8 would leave a copy in the object for
    /// as long as it lives, so that is asked only of ASCII, which is stored so already.
    pub(super) fn of(text: &'a Bound<'py, PyString>) -> PyResult<Self> {
        let py = text.py();
        if text.call_method0(intern!(py, "isascii"))?.is_truthy()? {
            return Ok(Self::Ascii(text.to_str()?));
        }
        let encode = intern!(py, "encode");
        let bytes = text.call_method1(encode, ("utf-8", "surrogatepass"))?;
        Ok(Self::Encoded(bytes.cast_into()?))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ascii(text) => text.as_bytes(),
            Self::Encoded(bytes) => bytes.as_bytes(),
        }
    }
}

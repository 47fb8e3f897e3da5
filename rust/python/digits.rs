//! Lists of numbers as JSON, many at a time; those of float32 also as Python's numbers.

use crate::digits::write_shortest;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyList, PyString};

const FLOAT32: usize = size_of::<f32>();
const INT64: usize = size_of::<i64>();

/// The numbers of `data`, float32 in this machine's order of bytes, in lists of `lengths`: each with
/// its JSON. What is no finite number is None, and null.
///
/// # Errors
/// ValueError if the lengths don't come to the data.
#[pyfunction]
#[pyo3(name = "_float32_lists")]
pub(super) fn float32_lists<'py>(
    py: Python<'py>,
    data: &[u8],
    lengths: Vec<usize>,
) -> PyResult<Vec<(Bound<'py, PyList>, String)>> {
    lists::<FLOAT32>(data, &lengths)?.into_iter().map(|own| list_of(py, own)).collect()
}

/// The JSON of the numbers of `data`, float32 in this machine's order of bytes, in lists of
/// `lengths`. What is no finite number is null.
///
/// # Errors
/// ValueError if the lengths don't come to the data.
#[pyfunction]
#[pyo3(name = "_float32_texts")]
pub(super) fn float32_texts<'py>(
    py: Python<'py>,
    data: &[u8],
    lengths: Vec<usize>,
) -> PyResult<Vec<Bound<'py, PyString>>> {
    texts::<FLOAT32>(py, data, &lengths, |bytes, text| {
        let value = f32::from_ne_bytes(bytes);
        if value.is_finite() {
            write_shortest(value, text);
        } else {
            text.push_str("null");
        }
    })
}

/// The JSON of the numbers of `data`, int64 in this machine's order of bytes, in lists of `lengths`.
///
/// # Errors
/// ValueError if the lengths don't come to the data.
#[pyfunction]
#[pyo3(name = "_int64_texts")]
pub(super) fn int64_texts<'py>(
    py: Python<'py>,
    data: &[u8],
    lengths: Vec<usize>,
) -> PyResult<Vec<Bound<'py, PyString>>> {
    texts::<INT64>(py, data, &lengths, |bytes, text| {
        let mut buffer = itoa::Buffer::new();
        text.push_str(buffer.format(i64::from_ne_bytes(bytes)));
    })
}

/// The bytes of each list; a number has `WIDTH` of them.
fn lists<'data, const WIDTH: usize>(
    data: &'data [u8],
    lengths: &[usize],
) -> PyResult<Vec<&'data [[u8; WIDTH]]>> {
    let (mut left, rest) = data.as_chunks::<WIDTH>();
    let mut found = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let Some((own, others)) = left.split_at_checked(length) else {
            return Err(PyValueError::new_err("fewer numbers than the lists have"));
        };
        left = others;
        found.push(own);
    }
    if left.is_empty() && rest.is_empty() {
        Ok(found)
    } else {
        Err(PyValueError::new_err("more numbers than the lists have"))
    }
}

/// The text of each list, written while other threads of Python run.
fn texts<'py, const WIDTH: usize>(
    py: Python<'py>,
    data: &[u8],
    lengths: &[usize],
    write: impl Fn([u8; WIDTH], &mut String) + Sync,
) -> PyResult<Vec<Bound<'py, PyString>>> {
    let lists = lists::<WIDTH>(data, lengths)?;
    let (text, ends) = py.detach(|| {
        let mut text = String::with_capacity(3 * data.len());
        let ends: Vec<usize> = lists
            .iter()
            .map(|own| {
                text.push('[');
                for (at, bytes) in own.iter().enumerate() {
                    if at > 0 {
                        text.push_str(", ");
                    }
                    write(*bytes, &mut text);
                }
                text.push(']');
                text.len()
            })
            .collect();
        (text, ends)
    });
    let mut begin = 0;
    let mut found = Vec::with_capacity(ends.len());
    for end in ends {
        found.push(PyString::new(py, &text[begin..end]));
        begin = end;
    }
    Ok(found)
}

fn list_of<'py>(py: Python<'py>, data: &[[u8; FLOAT32]]) -> PyResult<(Bound<'py, PyList>, String)> {
    let numbers = PyList::empty(py);
    let mut text = String::with_capacity(2 + 12 * data.len());
    text.push('[');
    for (at, bytes) in data.iter().enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        let value = f32::from_ne_bytes(*bytes);
        if value.is_finite() {
            let begin = text.len();
            write_shortest(value, &mut text);
            let decimal: f64 = text[begin..].parse()?;
            numbers.append(PyFloat::new(py, decimal))?;
        } else {
            text.push_str("null");
            numbers.append(py.None())?;
        }
    }
    text.push(']');
    Ok((numbers, text))
}

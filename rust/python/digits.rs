//! Lists of float32 as Python numbers and as JSON, many at a time.

use crate::digits::write_shortest;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyList};

const WIDTH: usize = size_of::<f32>();

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
    let mut left = data;
    let mut found = Vec::with_capacity(lengths.len());
    for length in lengths {
        let size = length.checked_mul(WIDTH).filter(|size| *size <= left.len());
        let Some(size) = size else {
            return Err(PyValueError::new_err("fewer numbers than the lists have"));
        };
        let (own, rest) = left.split_at(size);
        left = rest;
        found.push(list_of(py, own)?);
    }
    if left.is_empty() {
        Ok(found)
    } else {
        Err(PyValueError::new_err("more numbers than the lists have"))
    }
}

fn list_of<'py>(py: Python<'py>, data: &[u8]) -> PyResult<(Bound<'py, PyList>, String)> {
    let numbers = PyList::empty(py);
    let mut text = String::with_capacity(2 + 12 * data.len() / WIDTH);
    text.push('[');
    for (at, bytes) in data.as_chunks::<WIDTH>().0.iter().enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        let value = f32::from_ne_bytes(*bytes);
        if value.is_finite() {
            let begin = text.len();
            write_shortest(value, &mut text);
            let decimal = text[begin..].parse::<f64>().unwrap_or(f64::NAN);
            numbers.append(PyFloat::new(py, decimal))?;
        } else {
            text.push_str("null");
            numbers.append(py.None())?;
        }
    }
    text.push(']');
    Ok((numbers, text))
}

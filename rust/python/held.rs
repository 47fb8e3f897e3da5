//! How much memory an object keeps: its own, that of all it refers to, and what lies outside of
//! objects (arrays, tensors, buffers).
//!
//! What an object refers to is asked of the garbage collector and not of a list of classes, so
//! instances, slots, named tuples, deques and closures are found alike. Each object counts once per
//! walk. Not entered, since keeping a value doesn't keep them: classes, modules and a module's names.

use super::outside;
use super::raw::references;
use super::walk::{OBJECTS, POINTER_BYTES, Step, Walk, plain_size, size_of};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule, PyTuple, PyType};

/// A header of the garbage collector, and an object's own fields.
const LIST_BYTES: u64 = 16 + 40;
const TUPLE_BYTES: u64 = 16 + 24;

/// Bytes that an object keeps, without what `walk` has counted before.
///
/// # Errors
/// Those of the objects' `__sizeof__`.
#[inline]
pub(super) fn bytes_of<'py>(walk: &mut Walk<'py>, object: &Bound<'py, PyAny>) -> PyResult<u64> {
    if let Some(bytes) = plain_size(object)? {
        return Ok(bytes);
    }
    if let Some(bytes) = outside::weight_of(object) {
        return Ok(bytes);
    }
    walk.bytes = 0;
    walk.look_at(object.clone());
    run(walk)?;
    Ok(walk.bytes)
}

fn run(walk: &mut Walk<'_>) -> PyResult<()> {
    while let Some(step) = walk.to_do.pop() {
        match step {
            Step::Look(object) => look(walk, &object)?,
            Step::AtLeast { since, bytes } => {
                walk.bytes = walk.bytes.max(since.saturating_add(bytes));
            }
        }
        if walk.bytes > walk.most && walk.looked_at > OBJECTS {
            break;
        }
    }
    walk.to_do.clear();
    Ok(())
}

fn look<'py>(walk: &mut Walk<'py>, object: &Bound<'py, PyAny>) -> PyResult<()> {
    if let Some(bytes) = plain_size(object)? {
        walk.add(bytes);
        return Ok(());
    }
    if let Ok(list) = object.cast_exact::<PyList>() {
        walk.add(LIST_BYTES + POINTER_BYTES * list.len() as u64);
        return list.iter().try_for_each(|part| walk.meet(part, 1));
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        walk.add(TUPLE_BYTES + POINTER_BYTES * tuple.len() as u64);
        return tuple.iter().try_for_each(|part| walk.meet(part, 1));
    }
    if object.is_instance_of::<PyType>() || object.is_instance_of::<PyModule>() {
        return Ok(());
    }
    if let Ok(dict) = object.cast::<PyDict>()
        && is_namespace(dict)?
    {
        return Ok(());
    }
    look_further(walk, object)
}

fn look_further<'py>(walk: &mut Walk<'py>, object: &Bound<'py, PyAny>) -> PyResult<()> {
    if object.is_exact_instance_of::<PyDict>() {
        walk.add(size_of(object)?);
        return walk.meet_referents(object);
    }
    if let Some(bytes) = outside::weight_of(object) {
        walk.add(bytes);
        return Ok(());
    }
    let size = size_of(object)?;
    if outside::look(walk, object, size)? { Ok(()) } else { walk.look_at_own(object, size) }
}

/// Whether it holds a module's names, which a function or a frame refers to.
fn is_namespace(dict: &Bound<'_, PyDict>) -> PyResult<bool> {
    if references(dict) <= 2 || dict.len() < 4 {
        return Ok(false);
    }
    let py = dict.py();
    Ok(dict.contains(intern!(py, "__builtins__"))? || dict.contains(intern!(py, "__spec__"))?)
}

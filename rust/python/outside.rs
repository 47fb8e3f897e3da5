//! Memory that lies outside of Python objects: of arrays, tensors, tables and buffers.
//!
//! None of the libraries is imported: an object is known by what it can be asked. What a library
//! says of an object (`nbytes`) is often what can be seen through it and not what it keeps, so it is
//! a lower bound, never the answer; and it is believed where its class computes it, not where it is
//! a field that somebody called so.

use super::raw::has_buffer;
use super::walk::Walk;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyMemoryView, PyString, PyType};

/// What a tensor without a storage may be made of: where its numbers are, and the numbers.
const SPARSE_PARTS: [&[&str]; 3] = [
    &["crow_indices", "col_indices", "values"],
    &["ccol_indices", "row_indices", "values"],
    &["_indices", "_values"],
];

/// Looks at an object of `size` bytes by what it says of its memory; false: it says nothing.
///
/// # Errors
/// Those of the objects' `__sizeof__`.
pub(super) fn look<'py>(
    walk: &mut Walk<'py>,
    object: &Bound<'py, PyAny>,
    size: u64,
) -> PyResult<bool> {
    let py = object.py();
    if is_known_array(object) {
        let base = object.getattr(intern!(py, "base"))?;
        look_at_array(walk, object, size, base)?;
        return Ok(true);
    }
    let nbytes = match get(object, intern!(py, "nbytes")) {
        Ok(None) => None,
        Ok(Some(nbytes)) => nbytes.extract::<u64>().ok().filter(|_| is_computed(object)),
        // Where a sparse tensor lies it doesn't say, but what it is made of.
        Err(_) => has(object, intern!(py, "untyped_storage")).then_some(0),
    };
    let Some(nbytes) = nbytes else {
        return look_at_opaque(walk, object, size);
    };
    if let Some(base) = get(object, intern!(py, "base"))? {
        look_at_array(walk, object, size.max(nbytes), base)?;
    } else if has(object, intern!(py, "untyped_storage")) {
        look_at_tensor(walk, object, size, nbytes)?;
    } else {
        let whole = told_by(object, intern!(py, "get_total_buffer_size"));
        look_at_claimant(walk, object, size, whole.unwrap_or(nbytes))?;
    }
    Ok(true)
}

/// The bytes of an object whose class says, by naming itself, that `nbytes` is all that it keeps.
pub(super) fn weight_of(object: &Bound<'_, PyAny>) -> Option<u64> {
    let py = object.py();
    let said_of = get(object, intern!(py, "__weighs_nbytes__")).ok()??;
    // A subclass inherits the word, but it was said of another class.
    let is_all = said_of.is(object.get_type());
    is_all.then(|| object.getattr(intern!(py, "nbytes")).ok()?.extract().ok())?
}

/// An object without `nbytes`.
fn look_at_opaque<'py>(
    walk: &mut Walk<'py>,
    object: &Bound<'py, PyAny>,
    size: u64,
) -> PyResult<bool> {
    let told = told_by(object, intern!(object.py(), "estimated_size"));
    let Some(bytes) = told.or_else(|| buffer_bytes(object)) else {
        return Ok(false);
    };
    look_at_claimant(walk, object, size, bytes)?;
    Ok(true)
}

/// An object that keeps `claim` bytes if not more.
fn look_at_claimant<'py>(
    walk: &mut Walk<'py>,
    object: &Bound<'py, PyAny>,
    size: u64,
    claim: u64,
) -> PyResult<()> {
    walk.expect(claim);
    walk.look_at_own(object, size)
}

/// An array of `size` bytes with its numbers, or a view of what it was cut from.
fn look_at_array<'py>(
    walk: &mut Walk<'py>,
    array: &Bound<'py, PyAny>,
    size: u64,
    base: Bound<'py, PyAny>,
) -> PyResult<()> {
    if !base.is_none() {
        // The base of an array over foreign memory may be a mere token of it.
        if walk.is_new(base.as_ptr() as usize) {
            walk.expect(span_of(array)?);
            walk.look_at_known(base);
        }
        walk.add(VIEW_BYTES);
    } else {
        walk.add(size);
        meet_items(walk, array)?;
    }
    // Only those of other classes have attributes.
    if is_known_array(array) { Ok(()) } else { walk.meet_referents(array) }
}

/// Looks at the objects that an array of objects holds.
fn meet_items<'py>(walk: &mut Walk<'py>, array: &Bound<'py, PyAny>) -> PyResult<()> {
    let py = array.py();
    let dtype = array.getattr(intern!(py, "dtype"))?;
    if !dtype.getattr(intern!(py, "hasobject")).is_ok_and(|has| has.is_truthy().unwrap_or(false)) {
        return Ok(());
    }
    let items = array.call_method1(intern!(py, "ravel"), ("K",))?;
    let items = items.call_method0(intern!(py, "tolist"))?.cast_into::<PyList>()?;
    items.iter().try_for_each(|item| walk.meet(item, 2))
}

/// Whether it is just a `numpy.ndarray`, once one has been seen.
fn is_known_array(object: &Bound<'_, PyAny>) -> bool {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = object.py();
    let class = object.get_type();
    if let Some(known) = CLASS.get(py) {
        return class.is(known);
    }
    let is_array = class.fully_qualified_name().is_ok_and(|name| name == "numpy.ndarray");
    if is_array {
        CLASS.get_or_init(py, || class.unbind());
    }
    is_array
}

/// An array's own fields, shape and strides.
const VIEW_BYTES: u64 = 128;

/// Bytes between the first and the last that an array shows.
fn span_of(array: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = array.py();
    let lengths: Vec<u64> = array.getattr(intern!(py, "shape"))?.extract()?;
    let strides: Vec<i64> = array.getattr(intern!(py, "strides"))?.extract()?;
    if lengths.contains(&0) {
        return Ok(0);
    }
    let itemsize: u64 = array.getattr(intern!(py, "itemsize"))?.extract()?;
    let steps = lengths.iter().zip(strides);
    Ok(steps.map(|(length, stride)| (length - 1) * stride.unsigned_abs()).sum::<u64>() + itemsize)
}

/// A tensor: its storage, which other tensors may share, or the tensors that it is made of.
fn look_at_tensor<'py>(
    walk: &mut Walk<'py>,
    tensor: &Bound<'py, PyAny>,
    size: u64,
    nbytes: u64,
) -> PyResult<()> {
    walk.add(size + TENSOR_BYTES);
    if let Ok((address, bytes)) = storage_of(tensor) {
        if address == 0 || walk.is_new(address) {
            walk.add(bytes);
        }
    } else {
        let made_of = |parts: &&[&str]| -> PyResult<Vec<_>> {
            parts.iter().map(|part| tensor.call_method0(*part)).collect()
        };
        walk.expect(nbytes);
        let parts = SPARSE_PARTS.iter().find_map(|parts| made_of(parts).ok());
        parts.into_iter().flatten().for_each(|part| walk.look_at(part));
    }
    walk.meet_referents(tensor)
}

/// Where a tensor's storage is, and its bytes.
fn storage_of(tensor: &Bound<'_, PyAny>) -> PyResult<(usize, u64)> {
    let py = tensor.py();
    let storage = tensor.call_method0(intern!(py, "untyped_storage"))?;
    let address = storage.call_method0(intern!(py, "data_ptr"))?.extract()?;
    Ok((address, storage.call_method0(intern!(py, "nbytes"))?.extract()?))
}

/// What libtorch has for a tensor and its storage, in addition to the Python object.
const TENSOR_BYTES: u64 = 320;

/// Bytes of a buffer, such as a mapped file or an array of ctypes.
fn buffer_bytes(object: &Bound<'_, PyAny>) -> Option<u64> {
    let view = has_buffer(object).then(|| PyMemoryView::from(object).ok())??;
    view.getattr(intern!(object.py(), "nbytes")).ok()?.extract().ok()
}

/// A number that a method gives, if there is such a method.
fn told_by(object: &Bound<'_, PyAny>, method: &Bound<'_, PyString>) -> Option<u64> {
    let method = get(object, method).ok()??;
    method.call0().ok()?.extract().ok()
}

/// Whether `nbytes` is computed by the class, and no field that somebody called so.
fn is_computed(object: &Bound<'_, PyAny>) -> bool {
    static PROPERTY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static DESCRIPTOR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = object.py();
    let computed = || {
        let class = object.get_type().getattr(intern!(py, "nbytes"))?.get_type();
        Ok::<_, PyErr>(
            class.is(DESCRIPTOR.import(py, "types", "GetSetDescriptorType")?)
                || class.is_subclass(PROPERTY.import(py, "builtins", "property")?)?,
        )
    };
    computed().unwrap_or(false)
}

fn has(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> bool {
    get(object, name).is_ok_and(|found| found.is_some())
}

/// An attribute, without the exception for a missing one, which is expensive to make.
fn get<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    static GETATTR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let getattr = GETATTR.import(object.py(), "builtins", "getattr")?;
    let found = getattr.call1((object, name, getattr))?;
    Ok((!found.is(getattr)).then_some(found))
}

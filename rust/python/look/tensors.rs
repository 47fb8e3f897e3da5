//! Whether tensors are where and what they were, read from their own memory.
//!
//! The library's getters for a version and an address take 34 and 48 to 69 ns a tensor; both are
//! numbers in memory that has stood at the same offsets since libtorch 2.0. The package finds the
//! offsets by trials with tensors made for it, and holds what is read there against what the getters
//! say of each tensor before it relies on it (`layout.py`). Whatever differs goes the getters' way.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// Bytes from the beginning of an object to a field in it.
#[derive(Clone, Copy, FromPyObject)]
struct Layout {
    /// In Python's object, the address of the tensor itself.
    tensor: usize,
    /// In that: the address of the storage, of the version counter, of what autograd knows, the offset
    /// in the storage, the number of numbers, and a word with their kind.
    storage: usize,
    counter: usize,
    autograd: usize,
    offset: usize,
    numel: usize,
    kind: usize,
    /// In the storage, the address of its memory.
    memory: usize,
    /// In the version counter, the version: 32 bits.
    version: usize,
    /// In what autograd knows, whether a gradient is asked for: 8 bits.
    gradient: usize,
}

/// A tensor at one moment.
#[derive(PartialEq, Eq)]
struct Row {
    tensor: usize,
    storage: usize,
    memory: usize,
    counter: usize,
    version: u32,
    offset: usize,
    numel: usize,
    kind: usize,
    /// Whether a gradient is asked for, where that matters.
    gradient: bool,
}

/// Versions and addresses of some tensors.
#[pyclass(frozen, module = "forwardcache._core", name = "_TensorLook")]
pub(in crate::python) struct TensorLook {
    layout: Layout,
    rows: Vec<(Row, bool)>,
}

#[pymethods]
impl TensorLook {
    /// Args:
    ///     layout: Where the fields are.
    ///     tensors: What is looked at: plain, with a storage of their own kind.
    ///     without_gradient: Which of them must not ask for a gradient.
    #[new]
    fn new(
        layout: Layout,
        tensors: &Bound<'_, PyList>,
        without_gradient: Vec<bool>,
    ) -> PyResult<Self> {
        let rows = tensors.iter().zip(without_gradient).map(|(tensor, asks)| {
            // SAFETY: the package hands in nothing but tensors, and the layout that it tried out.
            (unsafe { Row::read(layout, tensor.as_ptr(), asks) }, asks)
        });
        Ok(Self { layout, rows: rows.collect() })
    }

    /// Whether what is read is what the getters say.
    ///
    /// Args:
    ///     versions: What ``_version`` says of each tensor.
    ///     addresses: What ``data_ptr()`` says.
    ///     widths: Bytes of a number.
    fn agrees(&self, versions: Vec<u64>, addresses: Vec<usize>, widths: Vec<usize>) -> bool {
        let said = versions.into_iter().zip(addresses).zip(widths);
        self.rows.iter().zip(said).all(|((row, asks), ((version, address), width))| {
            let begins = if row.numel == 0 { 0 } else { row.memory + row.offset * width };
            u64::from(row.version) == version && begins == address && !(*asks && row.gradient)
        })
    }

    /// Whether all of ``tensors``, the same objects, are as they were.
    fn holds(&self, tensors: &Bound<'_, PyList>) -> bool {
        tensors.len() == self.rows.len()
            && self.rows.iter().enumerate().all(|(index, (row, asks))| {
                // SAFETY: the index is below the length, no code runs meanwhile, and they are tensors.
                unsafe {
                    let tensor = ffi::PyList_GetItem(tensors.as_ptr(), index as ffi::Py_ssize_t);
                    row.is_still(self.layout, tensor, *asks)
                }
            })
    }
}

/// The word at an address.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn word(address: usize) -> usize {
    // SAFETY: the caller vouches for it. Volatile: other threads may write there meanwhile.
    unsafe { (address as *const usize).read_volatile() }
}

impl Row {
    /// # Safety
    /// `object` is a tensor with a storage; the layout is right.
    unsafe fn read(at: Layout, object: *mut ffi::PyObject, asks: bool) -> Self {
        // SAFETY: the fields are inside of objects that the tensor keeps.
        unsafe {
            let tensor = word(object as usize + at.tensor);
            let field = |at: usize| word(tensor + at);
            let (storage, counter) = (field(at.storage), field(at.counter));
            Self {
                tensor,
                storage,
                memory: word(storage + at.memory),
                counter,
                version: version_at(counter, at),
                offset: field(at.offset),
                numel: field(at.numel),
                kind: field(at.kind),
                gradient: asks && asks_for_gradient(field(at.autograd), at),
            }
        }
    }

    /// Whether a tensor is as it was: without a branch for each field.
    ///
    /// # Safety
    /// As of `read`.
    #[inline(always)]
    unsafe fn is_still(&self, at: Layout, object: *mut ffi::PyObject, asks: bool) -> bool {
        // SAFETY: the caller vouches for it. The storage and the counter are followed only where they
        // are those that were there before, and so belong to the tensor.
        unsafe {
            let tensor = word(object as usize + at.tensor);
            if tensor != self.tensor {
                return false;
            }
            let field = |at: usize| word(tensor + at);
            let same = (field(at.storage) == self.storage)
                & (field(at.counter) == self.counter)
                & (field(at.offset) == self.offset)
                & (field(at.numel) == self.numel)
                & (field(at.kind) == self.kind);
            same && (word(self.storage + at.memory) == self.memory)
                & (version_at(self.counter, at) == self.version)
                & !(asks && asks_for_gradient(field(at.autograd), at))
        }
    }
}

/// # Safety
/// It is the address of a version counter, or 0.
#[inline(always)]
unsafe fn version_at(counter: usize, at: Layout) -> u32 {
    // SAFETY: the caller vouches for it.
    if counter == 0 { 0 } else { unsafe { ((counter + at.version) as *const u32).read_volatile() } }
}

/// # Safety
/// It is the address of what autograd knows of a tensor, or 0.
#[inline(always)]
unsafe fn asks_for_gradient(autograd: usize, at: Layout) -> bool {
    // SAFETY: the caller vouches for it.
    autograd != 0 && unsafe { ((autograd + at.gradient) as *const u8).read_volatile() != 0 }
}

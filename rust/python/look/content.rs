//! Sums over the memory of tensors, which change with what is in it.
#![allow(unsafe_code)]

use crate::memory::Watched;
use pyo3::prelude::*;
use std::time::Duration;

/// Sums over pieces of memory that the caller keeps, as they were first.
#[pyclass(frozen, module = "forwardcache._core", name = "_MemorySums")]
pub(in crate::python) struct MemorySums(Watched);

/// From this size on other threads may run meanwhile: that is worth their change of turns.
const DETACHED_BYTES: usize = 1 << 20;

#[pymethods]
impl MemorySums {
    /// Args:
    ///     pieces: Address and number of bytes of each. The caller keeps them mapped, and reads only
    ///         after it saw that they are.
    ///     settle_s: Seconds for which they have to be the same before the kernel is asked for writes,
    ///         and again before its answer is relied on.
    #[new]
    fn new(py: Python<'_>, pieces: Vec<(usize, usize)>, settle_s: f64) -> Self {
        let settle = Duration::try_from_secs_f64(settle_s).unwrap_or(Duration::MAX);
        // SAFETY: the package does as the argument says.
        Self(py.detach(|| unsafe { Watched::new(pieces, settle) }))
    }

    /// The sums as they were first.
    #[getter]
    fn first(&self) -> Vec<u64> {
        self.0.first().collect()
    }

    /// Whether they are no longer summed while the kernel says that nothing was written.
    #[getter]
    fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    /// The sums as they are now.
    fn read(&self, py: Python<'_>) -> Vec<u64> {
        self.run(py, || self.0.read().collect())
    }

    /// Whether they are as they were first.
    ///
    /// Args:
    ///     relies: Whether the kernel may be asked for writes.
    fn holds(&self, py: Python<'_>, relies: bool) -> bool {
        self.run(py, || self.0.holds(relies))
    }
}

impl MemorySums {
    fn run<T: Send>(&self, py: Python<'_>, read: impl FnOnce() -> T + Send) -> T {
        if self.0.bytes() < DETACHED_BYTES { read() } else { py.detach(read) }
    }
}

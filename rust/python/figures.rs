//! Figures of calls as Python's objects.

use crate::stats::CallFigures;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyType};

/// The figures as a `CallStats`.
pub(super) fn call_stats<'py>(
    py: Python<'py>,
    figures: &CallFigures,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let CallFigures { hits, misses, failed, waits, .. } = *figures;
    let CallFigures { wait_s, compute_s, saved_s, evictions, recomputed, .. } = *figures;
    let class = CLASS.import(py, "forwardcache._figures", "CallStats")?;
    class.call1((hits, misses, failed, waits, wait_s, compute_s, saved_s, evictions, recomputed))
}

/// One `CallStats` a name, the sum of all with that name.
pub(super) fn sums<'py>(
    py: Python<'py>,
    lines: impl Iterator<Item = (Py<PyString>, CallFigures)>,
) -> PyResult<Bound<'py, PyDict>> {
    let sums = PyDict::new(py);
    for (name, figures) in lines {
        let figures = call_stats(py, &figures)?;
        let sum = match sums.get_item(&name)? {
            Some(before) => before.add(figures)?,
            None => figures,
        };
        sums.set_item(name, sum)?;
    }
    Ok(sums)
}

/// A dataclass with our names, types and defaults.
pub(super) fn model<'py>(py: Python<'py>, fields: &[&'static str]) -> PyResult<&'py Py<PyAny>> {
    static MODEL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MODEL.get_or_try_init(py, || {
        let specs = fields.iter().map(|name| match *name {
            "scoring_wall_s" => (*name, "float", 0.0.into_py_any(py)),
            _ => (*name, "int", 0_u64.into_py_any(py)),
        });
        let specs = specs.map(|(name, class, default)| Ok((name, class, default?)));
        let specs = specs.collect::<PyResult<Vec<_>>>()?;
        let make_dataclass = py.import("dataclasses")?.getattr("make_dataclass")?;
        make_dataclass.call1(("BackendStats", specs)).map(Bound::unbind)
    })
}

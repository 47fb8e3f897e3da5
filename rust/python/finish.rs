//! Finishes the traces of a process that ends: at the interpreter's end, or as a forked child.

use crate::sync::{Ordering, StaticU64};
use crate::trace::writer::{finish_all, forks_behind};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

/// Has `multiprocessing` end the traces of a child that it forked, once per child: such a child leaves
/// by `os._exit`, past `atexit`. The first event in a child always passes here.
pub(super) fn finish_with_a_forked_child(py: Python<'_>) {
    static ARRANGED: StaticU64 = StaticU64::new(0);
    let forks = forks_behind();
    // Relaxed: who comes second has nothing to do.
    if ARRANGED.swap(forks, Ordering::Relaxed) != forks {
        // Without it the journal stays, and whoever opens or closes the trace next completes it.
        let _ = finish_by_multiprocessing(py);
    }
}

fn finish_by_multiprocessing(py: Python<'_>) -> PyResult<()> {
    let modules = py.import("sys")?.getattr("modules")?;
    let util = modules.get_item("multiprocessing.util")?;
    let finish = py.import("forwardcache._core")?.getattr("_finish_traces")?;
    let last = [("exitpriority", LAST)].into_py_dict(py)?;
    util.call_method("Finalize", (py.None(), finish), Some(&last)).map(drop)
}

/// Below what `multiprocessing` itself ends.
const LAST: i32 = -100;

/// Ends every trace of this process; called at the interpreter's end.
#[pyfunction]
#[pyo3(name = "_finish_traces")]
pub(super) fn finish_traces(py: Python<'_>) {
    py.detach(finish_all);
}

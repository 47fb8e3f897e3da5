//! The extension module `forwardcache._core`: the one module that knows Python.
//!
//! A function here converts, calls the core, and maps the error. Rule of the house: while the core
//! holds anything, no Python code runs, so `__eq__`, `__hash__`, `__del__` and `compute` may call
//! the cache again (I3).
//!
//! Reading order: `instrumentation` (what a backend calls) with `parts` and `slot` (what can be
//! replaced), `fast_path`, `call`, `again`, `batch` and `ending` (one call of each kind), `key`, `text`,
//! `hashes`, `prompt_hash`, `known` and `identity` (from arguments to a key), `cache` with `limits`,
//! `stored`, `miss`, `spots` and `invalidate`, `weigh` (what an entry counts for) with `held`,
//! `outside`, `walk` and `raw`, `flight`, `stats` with `counting`, `op_counters` and `figures`,
//! `trace` with `described`, `event`, `probe` and `finish`, `observe` and `curve`, `digits`, and
//! `look` (at a model).

#[cfg(take_turns)]
mod again;
mod batch;
mod cache;
mod call;
mod counting;
mod curve;
mod described;
mod digits;
mod ending;
mod event;
#[cfg(take_turns)]
mod fast_path;
mod figures;
mod finish;
mod flight;
mod hashes;
mod held;
mod identity;
mod instrumentation;
mod invalidate;
mod key;
mod known;
mod limits;
mod look;
mod miss;
mod observe;
mod op_counters;
mod outside;
mod parts;
mod probe;
#[cfg(take_turns)]
mod prompt_hash;
mod raw;
mod slot;
#[cfg(take_turns)]
mod spots;
mod stats;
mod stored;
mod text;
mod trace;
mod walk;
mod weigh;

use pyo3::prelude::*;

/// Native core of forwardcache; use it through `forwardcache.instrumentation`.
#[pymodule(gil_used = false)]
mod _core {
    use super::PyResult;
    use pyo3::prelude::*;
    use pyo3::types::PyModule;

    #[pymodule_export]
    use super::cache::ForwardCache;
    #[pymodule_export]
    use super::curve::Curve;
    #[pymodule_export]
    use super::digits::{float32_lists, float32_texts, int64_texts};
    #[pymodule_export]
    use super::empty_call;
    #[pymodule_export]
    use super::finish::finish_traces;
    #[pymodule_export]
    use super::instrumentation::BackendInstrumentation;
    #[pymodule_export]
    use super::key::prompt_hash;
    #[pymodule_export]
    use super::look::{MemorySums, ModelLook, TensorLook, dict_tag};
    #[pymodule_export]
    use super::observe::parse_trace_lines;
    #[pymodule_export]
    use super::stats::BackendStats;
    #[pymodule_export]
    use super::trace::{TraceWriter, recover_trace};

    /// The version, which lives in `Cargo.toml` alone.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// "release" or "debug"; a debug build refuses to be benchmarked.
    #[pymodule_export]
    const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::clock::start();
        let py = module.py();
        let finish = module.getattr("_finish_traces")?;
        py.import("atexit")?.call_method1("register", (finish,))?;
        #[cfg(take_turns)]
        super::fast_path::install(&py.get_type::<BackendInstrumentation>())?;
        module.add("_MISS", super::miss::miss(module.py())?)
    }
}

/// Takes what `cached` takes and does nothing: the floor of a native call, for benchmarks.
#[pyfunction]
#[pyo3(name = "_empty_call")]
#[expect(unused_variables, reason = "the names are those of `cached`")]
fn empty_call<'py>(
    op: &Bound<'py, PyAny>,
    view_id: &Bound<'py, PyAny>,
    prompt: &Bound<'py, PyAny>,
    top_k: &Bound<'py, PyAny>,
    compute: &Bound<'py, PyAny>,
) {
}

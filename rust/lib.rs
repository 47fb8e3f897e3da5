//! The core of forwardcache: every forward pass once, never a wrong one, nothing lost.
//!
//! Reading order: `key` (what a key is, its hash prefix and digest), `cache` (which values are kept),
//! `stats` (what is counted), `sampling` (which hits are timed), `clock` (how time is read), `memory`
//! (what is in a piece of it), `trace` (what is written down), `observe` and `curve` (what is read from
//! it), `digits` (numbers as text), and last `python`, the only module that knows pyo3. Under them lie
//! `sync` (atomics and locks, ours or loom's) and `process` (what a fork changes). Everything but
//! `python` builds and is tested without an interpreter: `cargo nextest run`.

#[cfg(not(unix))]
compile_error!(
    "forwardcache runs on Linux and macOS: its trace needs POSIX locks and files that append; on \
     Windows use WSL"
);

pub mod cache;
#[cfg(not(any(loom, shuttle)))]
pub mod clock;
#[cfg(not(any(loom, shuttle)))]
pub mod curve;
#[cfg(not(any(loom, shuttle)))]
pub mod digits;
#[cfg(not(any(loom, shuttle)))]
pub mod key;
#[cfg(not(any(loom, shuttle)))]
pub mod memory;
#[cfg(not(any(loom, shuttle)))]
pub mod observe;
pub mod process;
#[cfg(test)]
mod proof;
#[cfg(not(any(loom, shuttle)))]
pub mod sampling;
#[cfg(not(any(loom, shuttle)))]
pub mod stats;
pub mod sync;
#[cfg(not(shuttle))]
pub mod trace;

#[cfg(all(feature = "python", not(any(loom, shuttle))))]
mod python;

//! The core of forwardcache: every forward pass once, never a wrong one, nothing lost.
//!
//! Reading order: `key` (what a key is, its label and digest), `cache` (which values are kept),
//! `stats` (what is counted), `clock` (how time is read), `trace` (what is written down), `observe`
//! and `curve` (what is read from it), and last `python`, the only room that knows pyo3. Everything
//! else builds and is tested without an interpreter: `cargo nextest run`.

#[cfg(not(loom))]
pub mod cache;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod curve;
#[cfg(not(loom))]
pub mod key;
#[cfg(not(loom))]
pub mod observe;
#[cfg(not(loom))]
pub mod stats;
pub mod sync;
pub mod trace;

#[cfg(all(feature = "python", not(loom)))]
mod python;

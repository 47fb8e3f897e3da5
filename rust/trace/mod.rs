//! What is written down: one JSON line per event, none lost by a kill, none twice.
//!
//! An accepted event lies in a *journal*, mapped memory of a file next to the trace, from which a
//! thread makes lines in large blocks. Reading order: `ring` (the journal's queue) with `prefetch`,
//! `record` (what an event is) and `brief` (what a hit is), `line` and `json` (its line), `name` (the
//! texts that events share), `journal` (the file), `sink` (the trace), `lockfile` (one process at a
//! time), `recover` (what dead processes left), `live` (one run) and its `wakeup`, `writer` (what its
//! user holds), `fork`. DESIGN.md draws the journal; docs/decisions/the-journal-of-a-trace.md says what
//! is promised for a kill, a fork, a full disk.

mod prefetch;
pub mod ring;
mod wakeup;

#[cfg(not(loom))]
pub mod brief;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
pub mod journal;
#[cfg(not(loom))]
mod json;
#[cfg(not(loom))]
mod line;
#[cfg(not(loom))]
mod live;
#[cfg(not(loom))]
mod lockfile;
#[cfg(not(loom))]
pub mod name;
#[cfg(not(loom))]
pub mod record;
#[cfg(not(loom))]
pub mod recover;
#[cfg(not(loom))]
mod sink;
#[cfg(not(loom))]
pub mod writer;

#[cfg(not(loom))]
pub use {
    brief::{Brief, Caller},
    live::Options,
    name::NameId,
    record::{Batch, PromptHash, Record, TopK},
    recover::{Recovered, recover},
    writer::{Run, Writer, Written},
};

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod models;

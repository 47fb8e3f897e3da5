//! What is written down: one JSON line an event.
//!
//! `event` is what a line says and how it looks, `writer` is the file. Every event is in the file
//! when the call that made it returns.

pub mod event;
mod json;
pub mod writer;

pub use event::Event;
pub use writer::{Lines, Writer};

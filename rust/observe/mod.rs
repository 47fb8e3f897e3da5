//! Reading what `trace` wrote, and what can be told from it.

pub mod line;

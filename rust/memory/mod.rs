//! What is in pieces of memory, told by sums, and by the kernel where it knows of every write.
//!
//! Reading order: `sum`, `written` (what the kernel knows), `watched` (when that is enough).

mod sum;
mod watched;
#[cfg(target_os = "linux")]
mod written;

#[cfg(not(target_os = "linux"))]
#[path = "written_elsewhere.rs"]
mod written;

pub use sum::sum;
pub use watched::Watched;

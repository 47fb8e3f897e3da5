//! The one place that names atomics and locks, so that a model checker can replace them.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
pub use std::thread::ThreadId;

/// Locks `mutex`, also after another thread panicked inside it.
///
/// Every critical section of ours leaves its data whole at each step, so a poisoned lock guards
/// nothing that is broken.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that asks.
#[must_use]
pub fn current_thread() -> ThreadId {
    std::thread::current().id()
}

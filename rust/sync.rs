//! The one place that names atomics and locks, so that a model checker can replace them.
//!
//! Under `cfg(loom)` the types of the cache and of the trace's hand-over are loom's. What stands in
//! a `static` keeps the standard types: loom's are not const, and no model reaches them.

pub use std::sync::atomic::{AtomicU64 as StaticU64, Ordering};
pub use std::sync::{Mutex as StaticMutex, MutexGuard as StaticMutexGuard};
pub use std::sync::{OnceLock, PoisonError};
pub use std::thread::ThreadId;
use std::time::Duration;

#[cfg(not(loom))]
mod primitives {
    pub use std::sync::atomic::{AtomicBool, AtomicU64};
    pub use std::sync::{Arc, Condvar, Mutex, MutexGuard};
}

#[cfg(loom)]
mod primitives {
    pub use loom::sync::atomic::{AtomicBool, AtomicU64};
    pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
}

pub use primitives::*;

/// Locks `mutex`, also after another thread panicked inside it.
///
/// Every critical section of ours leaves its data whole at each step, so a poisoned lock guards
/// nothing that is broken.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`] for what stands in a `static`.
pub fn lock_static<T>(mutex: &StaticMutex<T>) -> StaticMutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification.
pub fn wait<'m, T>(condition: &Condvar, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, or until `most` has passed.
pub fn wait_for<'m, T>(
    condition: &Condvar,
    guard: MutexGuard<'m, T>,
    most: Duration,
) -> MutexGuard<'m, T> {
    let (guard, _) = condition.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner);
    guard
}

/// The thread that asks.
#[must_use]
pub fn current_thread() -> ThreadId {
    std::thread::current().id()
}

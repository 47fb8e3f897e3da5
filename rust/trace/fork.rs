//! What `fork` does to a writer, and which writers this process has.
//!
//! A child has the parent's memory but none of its threads, so whatever another thread had locked
//! stays locked in it for ever. The child therefore touches nothing of the parent's writers: it
//! counts one fork more, and each writer that is used there opens itself anew (W3). The registry is
//! the one thing that both use; `fork` itself holds its lock, so it is never found locked.
//!
//! The registry also keeps POSIX locks alive: one is gone as soon as its process closes *any*
//! descriptor of that file, so this process opens a lock file once and its own journals never again
//! (W4).

use crate::sync::{OnceLock, Ordering, StaticMutex, StaticMutexGuard, StaticU64, lock_static};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::live::Live;
use super::lockfile::PathLock;

/// Forks that lie between this process and the one that loaded the library.
static FORKS: StaticU64 = StaticU64::new(0);
static REGISTRY: StaticMutex<Registry> = StaticMutex::new(Registry::new());

thread_local! {
    /// The registry's lock while this thread forks.
    static DURING_FORK: RefCell<Option<StaticMutexGuard<'static, Registry>>> =
        const { RefCell::new(None) };
}

/// What this process has open.
pub(super) struct Registry {
    lives: Vec<Arc<Live>>,
    locks: Vec<Weak<PathLock>>,
    journals: Vec<PathBuf>,
}

/// How many forks lie behind.
#[inline]
pub(super) fn forks() -> u64 {
    // Relaxed: it changes only in a child that has one thread.
    FORKS.load(Ordering::Relaxed)
}

/// The registry; from now on forks are watched.
pub(super) fn registry() -> StaticMutexGuard<'static, Registry> {
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(watch_forks);
    lock_static(&REGISTRY)
}

impl Registry {
    const fn new() -> Self {
        Self { lives: Vec::new(), locks: Vec::new(), journals: Vec::new() }
    }

    /// The lock of a trace; one for all of this process.
    pub(super) fn path_lock(&mut self, trace: &Path) -> Arc<PathLock> {
        self.locks.retain(|lock| lock.strong_count() > 0);
        let known = self.locks.iter().filter_map(Weak::upgrade).find(|lock| lock.is_of(trace));
        known.unwrap_or_else(|| {
            let made = Arc::new(PathLock::new(trace));
            self.locks.push(Arc::downgrade(&made));
            made
        })
    }

    /// The open writers.
    pub(super) fn lives(&mut self) -> &mut Vec<Arc<Live>> {
        &mut self.lives
    }

    /// Files of journals that this process has open and must not open again.
    pub(super) fn journals(&mut self) -> &mut Vec<PathBuf> {
        &mut self.journals
    }
}

#[allow(unsafe_code)]
fn watch_forks() {
    // SAFETY: the handlers are functions of this library, which Python never unloads.
    // A failure (out of memory) leaves forks unwatched, as if the handlers were not there.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(after_in_parent), Some(after_in_child)) };
}

extern "C" fn before_fork() {
    let guard = lock_static(&REGISTRY);
    // A thread whose locals are gone has ended its Python code; it forks without the lock.
    let _ = DURING_FORK.try_with(|slot| slot.replace(Some(guard)));
}

extern "C" fn after_in_parent() {
    let _ = DURING_FORK.try_with(|slot| drop(slot.take()));
}

extern "C" fn after_in_child() {
    let _ = DURING_FORK.try_with(|slot| {
        if let Some(mut registry) = slot.take() {
            // The parent's: dropping them would unmap and unlock what isn't this process's.
            std::mem::forget(std::mem::replace(&mut *registry, Registry::new()));
        }
    });
    // Relaxed: this process has one thread.
    FORKS.fetch_add(1, Ordering::Relaxed);
}

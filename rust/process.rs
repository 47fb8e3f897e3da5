//! Which process this is, without asking the system at every call.

use crate::sync::{OnceLock, Ordering, StaticU64};

/// Forks that lie between this process and the one that loaded the library.
static FORKS: StaticU64 = StaticU64::new(0);

/// A number that is another one after a `fork`, in the child.
#[inline]
#[must_use]
pub fn generation() -> u64 {
    // Relaxed: it changes only in a child that has one thread.
    FORKS.load(Ordering::Relaxed)
}

/// From now on forks are counted.
pub fn watch_forks() {
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(register);
}

#[allow(unsafe_code)]
fn register() {
    // SAFETY: the handler only adds to a static number. A failure (out of memory) leaves forks
    // uncounted.
    unsafe { libc::pthread_atfork(None, None, Some(count)) };
}

extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

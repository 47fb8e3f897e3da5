//! `PATH.lock`: one process at a time appends to a trace.
//!
//! A POSIX record lock: it ends with its process, however that dies, and a forked child doesn't
//! have it. It is no use between threads, for which there is a mutex. Whoever holds the lock may
//! remove the file; so after locking, the file is looked at again, and if it is no longer the one
//! at the path, the next is tried (W5).

use crate::sync::{Mutex, MutexGuard, lock};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for another process that holds the lock.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// The lock of one trace, within this process.
#[derive(Debug)]
pub(super) struct PathLock {
    trace: PathBuf,
    path: PathBuf,
    file: Mutex<Option<File>>,
}

/// The right to append, until it is dropped.
pub(super) struct Held<'l> {
    file: MutexGuard<'l, Option<File>>,
    path: &'l Path,
}

impl PathLock {
    pub(super) fn new(trace: &Path) -> Self {
        let path = companion(trace, "lock");
        Self { trace: trace.to_path_buf(), path, file: Mutex::new(None) }
    }

    pub(super) fn is_of(&self, trace: &Path) -> bool {
        self.trace == trace
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// Of kind `TimedOut` if another process holds it for five seconds; those of the system.
    pub(super) fn acquire(&self) -> io::Result<Held<'_>> {
        let mut file = lock(&self.file);
        let give_up = Instant::now() + PATIENCE;
        loop {
            if file.is_none() {
                *file = Some(open(&self.path)?);
            }
            let open = file.as_ref().expect("it was opened above");
            wait_for_lock(open, give_up)?;
            if is_at(open, &self.path) {
                return Ok(Held { file, path: &self.path });
            }
            *file = None;
        }
    }
}

impl Held<'_> {
    /// Removes the file; who waits for it finds that it is gone and makes the next.
    pub(super) fn remove_file(mut self) {
        // What can't be removed stays: an empty file that is used again.
        let _ = std::fs::remove_file(self.path);
        // Closing it also unlocks it.
        *self.file = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref() {
            unlock(file);
        }
    }
}

/// Locks a whole file if nobody has it. True: locked.
///
/// # Errors
/// Those of the system, but not that somebody has it.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives the lock of a file back.
pub(super) fn unlock(file: &File) {
    // It fails only for what was never locked.
    let _ = fcntl_lock(file, FlockOperation::NonBlockingUnlock);
}

/// The path of a trace's companion: the same folder and name, and an extension more.
pub(super) fn companion(trace: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(trace);
    name.push(".");
    name.push(extension);
    name.into()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

fn wait_for_lock(file: &File, give_up: Instant) -> io::Result<()> {
    while !try_lock(file)? {
        if Instant::now() >= give_up {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the trace"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace.jsonl");
        let path = folder.path().join("trace.jsonl.lock");
        let lock = PathLock::new(&trace);
        drop(lock.acquire().unwrap());
        std::fs::remove_file(&path).unwrap();
        let held = lock.acquire().unwrap();
        assert!(path.exists());
        held.remove_file();
        assert!(!path.exists());
        drop(lock.acquire().unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let lock = PathLock::new(&folder.path().join("gone/trace.jsonl"));
        assert_eq!(lock.acquire().err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}

//! An open trace, as its user holds it.
//!
//! Writers of one path in one process share a run, and the last to close it ends it. After `fork` a
//! writer begins a run of its own in the child, when it is first used there (W3); the parent's is
//! left as it lies, since its threads and locks are not in the child.

use super::brief::Brief;
use super::fork::{forks, registry};
use super::live::{Live, Options, Patience, thread_number};
use super::name::NameId;
use super::record::Record;
use super::ring::Refused;
use crate::sync::{OnceLock, Ordering, SharedBool, SharedU64};
use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was accepted, or the writer is closed and swallows it.
    Done,
    /// It could not be written, and is counted as lost.
    Lost,
    /// The ring is full: wait for room and try again.
    Full,
}

/// A trace that is open for append, or closed and silent.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    options: Options,
    closed: SharedBool,
    /// Events that a child could not write because it could not open the trace.
    unopened: SharedU64,
    first: Generation,
}

/// The run of one process, and those of its forks.
#[derive(Debug)]
struct Generation {
    forks: u64,
    /// None where a child could not open the trace.
    live: ManuallyDrop<Option<Arc<Live>>>,
    next: OnceLock<Box<Generation>>,
}

/// A run that takes events.
#[derive(Clone, Copy, Debug)]
pub struct Run<'w> {
    writer: &'w Writer,
    live: &'w Live,
}

impl Writer {
    /// Opens `path` for append; its folders are made and the file is there at once.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path, options: Options) -> io::Result<Self> {
        let first = Generation::new(Some(share_or_open(path, options)?));
        // Absolute, since the child may work in another folder.
        let path = std::path::absolute(path)?;
        let (closed, unopened) = (SharedBool::new(false), SharedU64::new(0));
        Ok(Self { path, options, closed, unopened, first })
    }

    /// The run that takes this process's events; None after `close`.
    #[inline]
    #[must_use]
    pub fn run(&self) -> Option<Run<'_>> {
        // Relaxed: a call at the same time as a close is before or after it.
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let generation = if self.first.forks == forks() { &self.first } else { self.after_fork() };
        let live = generation.live.as_ref();
        if live.is_none() {
            self.unopened.fetch_add(1, Ordering::Relaxed);
        }
        live.map(|live| Run { writer: self, live })
    }

    #[cold]
    fn after_fork(&self) -> &Generation {
        let mut generation = &self.first;
        loop {
            if generation.forks == forks() {
                return generation;
            }
            generation = match generation.next.get() {
                Some(next) => next,
                None => self.begin_generation(generation),
            };
        }
    }

    fn begin_generation<'w>(&self, before: &'w Generation) -> &'w Generation {
        let live = share_or_open(&self.path, self.options).ok();
        // Under the registry's lock, so that no fork finds the cell half filled.
        let registry = registry();
        let refused = before.next.set(Box::new(Generation::new(live))).err();
        drop(registry);
        // Another thread of the child was first: this one is a handle too many.
        if let Some(live) = refused.and_then(|mut generation| generation.live.take()) {
            release(&live);
        }
        before.next.get().expect("it was just filled")
    }

    /// Appends all events accepted by now.
    pub fn flush(&self) {
        if let Some(live) = self.live_here() {
            let _ = live.flush();
        }
    }

    /// Ends the writer's use of the trace; a second call does nothing. Returns the number of events
    /// that the file doesn't have.
    pub fn close(&self) -> u64 {
        let was_closed = self.closed.swap(true, Ordering::AcqRel);
        if let Some(live) = self.live_here().filter(|_| !was_closed) {
            release(live);
        }
        self.unwritten()
    }

    /// Whether `close` was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Events that were lost: the disk was full, or writing had become impossible.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.unopened.load(Ordering::Relaxed) + self.live_here().map_or(0, |live| live.lost())
    }

    fn unwritten(&self) -> u64 {
        self.unopened.load(Ordering::Relaxed) + self.live_here().map_or(0, |live| live.unwritten())
    }

    /// This process's run, if it has begun one.
    fn live_here(&self) -> Option<&Arc<Live>> {
        let mut generation = Some(&self.first);
        while let Some(this) = generation {
            if this.forks == forks() {
                return this.live.as_ref();
            }
            generation = this.next.get().map(|next| &**next);
        }
        None
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Generation {
    fn new(live: Option<Arc<Live>>) -> Self {
        Self { forks: forks(), live: ManuallyDrop::new(live), next: OnceLock::new() }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // The parent's run is left alone: its mapping, threads and locks are not in this process.
        if self.forks == forks() {
            drop(self.live.take());
        }
    }
}

impl<'w> Run<'w> {
    /// Tells this run's names from another's.
    #[inline]
    #[must_use]
    pub fn id(self) -> u64 {
        self.live.run()
    }

    /// The number of `text`; None if it can't be written down, and the event with it.
    #[must_use]
    pub fn name(self, text: &[u8]) -> Option<NameId> {
        self.live.name(text).ok()
    }

    /// The number of the next batch.
    #[must_use]
    pub fn next_batch(self) -> u64 {
        self.live.next_batch()
    }

    /// Accepts an event.
    #[inline]
    #[must_use]
    pub fn write(self, record: &Record) -> Written {
        match self.live.push(record) {
            Ok(()) => Written::Done,
            Err(Refused::Full) => Written::Full,
            Err(Refused::Sealed) => self.write_directly(record),
        }
    }

    /// Accepts a hit. False: it was not accepted, and [`Run::write`] says why.
    #[inline(always)]
    #[must_use]
    pub fn write_brief(self, brief: &Brief) -> bool {
        self.live.push_brief(brief).is_ok()
    }

    #[cold]
    fn write_directly(self, record: &Record) -> Written {
        // A run that ended although its writer is open: the interpreter is at its end.
        let is_open = !self.writer.is_closed();
        match is_open && self.live.append_direct(std::slice::from_ref(record)) > 0 {
            true => Written::Lost,
            false => Written::Done,
        }
    }

    /// For [`Run::wait_for_room`].
    #[must_use]
    pub fn patience(self) -> Patience {
        self.live.patience()
    }

    /// Waits until there may be room, for at most `slice`. False: give up, the event is lost.
    #[must_use]
    pub fn wait_for_room(self, patience: &mut Patience, slice: Duration) -> bool {
        self.live.wait_for_room(patience, slice)
    }

    /// Counts events that could not be accepted.
    pub fn lose(self, events: u64) {
        self.live.lose(events);
    }
}

/// Ends every run of this process: before the interpreter goes. Writers that are still used append
/// their lines one by one.
pub fn finish_all() {
    let lives = std::mem::take(registry().lives());
    lives.iter().for_each(|live| live.finish());
}

/// Forks that lie between this process and the one that loaded the library.
#[must_use]
pub fn forks_behind() -> u64 {
    forks()
}

/// This thread's number, for [`Record::thread`].
#[must_use]
pub fn this_thread() -> u32 {
    thread_number()
}

fn share_or_open(path: &Path, options: Options) -> io::Result<Arc<Live>> {
    if let Some(live) = share(path) {
        return Ok(live);
    }
    let live = Live::open(path, options)?;
    registry().lives().push(Arc::clone(&live));
    Ok(live)
}

fn share(path: &Path) -> Option<Arc<Live>> {
    let path = std::fs::canonicalize(path).ok()?;
    let mut registry = registry();
    let live = registry.lives().iter().find(|live| live.is_of(&path))?;
    // Relaxed: changed under the registry's lock.
    live.handles.fetch_add(1, Ordering::Relaxed);
    Some(Arc::clone(live))
}

/// Lets go of one handle; the last one ends the run.
fn release(live: &Arc<Live>) {
    let mut registry = registry();
    let is_last = live.handles.fetch_sub(1, Ordering::Relaxed) == 1;
    if is_last {
        registry.lives().retain(|open| !Arc::ptr_eq(open, live));
    }
    drop(registry);
    if is_last {
        live.finish();
    } else {
        let _ = live.flush();
    }
}

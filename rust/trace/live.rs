//! One run of a trace: the journal that takes events, and the thread that makes lines of them.
//!
//! An event is accepted when the ring has it. The thread wakes once per interval, or when a quarter of
//! the ring has filled, and appends everything accepted in large blocks. Only whoever holds `work`
//! drains: the thread, a flush, or the end.
//!
//! Where a journal can't be had (a device, a network or copy-on-write file system, a folder that
//! takes no new file), and after the interpreter's end, each call appends its own lines (`direct`).

mod direct;

use super::brief::Brief;
use super::fork::registry;
use super::journal::Journal;
use super::lockfile::{Held, PathLock};
use super::name::{JsonNames, NameId, Names};
use super::record::Record;
use super::recover;
use super::ring::Refused;
use super::sink::Sink;
use super::wakeup::Wakeup;
use crate::clock;
use crate::sync::{Condvar, Mutex, Ordering, SharedBool, SharedU64, StaticU64, lock, wait_for};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a trace is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest time an accepted event stays out of the `.jsonl`.
    pub interval: Duration,
    /// Whether the file is synced to its disk after every block.
    pub fsync: bool,
    /// Events that a journal takes; a power of two.
    pub journal_events: u64,
}

/// Without progress for this long, a full ring loses events instead of waiting.
const STALL: Duration = Duration::from_secs(5);
/// Text that is written at once.
const BLOCK: usize = 1 << 20;

/// One run.
#[derive(Debug)]
pub(super) struct Live {
    run: u64,
    options: Options,
    path: PathBuf,
    lock: Option<Arc<PathLock>>,
    journal: Option<Journal>,
    names: Mutex<KeptNames>,
    work: Mutex<Work>,
    wakeup: Wakeup,
    room: (Mutex<()>, Condvar),
    stop: SharedBool,
    /// The last attempt to write failed, or a wait for a full ring gave up.
    stuck: SharedBool,
    lost: SharedU64,
    /// Losses that stand in no line, where there is no journal to keep their number.
    unreported: SharedU64,
    batches: SharedU64,
    /// Writers that use this run. Changed under the registry's lock.
    pub(super) handles: SharedU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct KeptNames {
    names: Names,
    /// Where the next one goes in the journal.
    offset: u64,
}

#[derive(Debug)]
struct Work {
    sink: Sink,
    names: JsonNames,
    /// A block: its text and the ends of its lines.
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Lines written without the ring, which count on from its tail.
    direct: u64,
    finished: bool,
}

/// How long somebody has waited for room.
#[derive(Debug)]
pub struct Patience {
    head: u64,
    give_up: Instant,
}

impl Live {
    /// Opens the trace at `path`, completes what dead processes left, and begins a run.
    ///
    /// # Errors
    /// Those of the system, where the trace itself can't be opened.
    pub(super) fn open(path: &Path, options: Options) -> io::Result<Arc<Self>> {
        // The file stays the same one wherever the process goes, and a bare name has a folder.
        let path = std::path::absolute(path)?;
        let sink = Sink::open(&path, options.fsync)?;
        let path = std::fs::canonicalize(&path)?;
        let run = new_run()?;
        let mut live = Self {
            run,
            options,
            lock: sink.is_regular().then(|| registry().path_lock(&path)),
            journal: None,
            names: Mutex::default(),
            work: Mutex::new(Work::new(sink)),
            wakeup: Wakeup::default(),
            room: (Mutex::new(()), Condvar::new()),
            stop: SharedBool::new(false),
            stuck: SharedBool::new(false),
            lost: SharedU64::new(0),
            unreported: SharedU64::new(0),
            batches: SharedU64::new(0),
            handles: SharedU64::new(1),
            thread: Mutex::new(None),
            path,
        };
        // Without a lock or a journal there is still the file.
        live.journal = live.begin_journal().ok();
        let live = Arc::new(live);
        if live.journal.is_some() {
            live.start_thread();
        }
        Ok(live)
    }

    fn begin_journal(&self) -> io::Result<Journal> {
        let lock = self.lock.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let held = lock.acquire()?;
        let mut work = crate::sync::lock(&self.work);
        work.sink.recover(&held)?;
        let journal = super::journal::path_of(&self.path, self.run);
        registry().journals().push(journal.clone());
        let made = Journal::create(&self.path, self.run, self.options.journal_events);
        if made.is_err() {
            forget_journal(&journal);
        }
        made
    }

    fn start_thread(self: &Arc<Self>) {
        let live = Arc::clone(self);
        let builder = std::thread::Builder::new().name("forwardcache-trace".into());
        // Without a thread, events are written by flush, close, and whoever finds the ring full.
        *lock(&self.thread) = builder.spawn(move || live.drain_until_stopped()).ok();
    }

    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.path == path
    }

    /// The run, which tells this run's names from another's.
    #[must_use]
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// The number of `text`, which is written down if it is new.
    ///
    /// # Errors
    /// Those of the system: an event with this text can't be accepted.
    pub(super) fn name(&self, text: &[u8]) -> io::Result<NameId> {
        let mut kept = lock(&self.names);
        if let Some(id) = kept.names.find(text) {
            return Ok(id);
        }
        if let Some(journal) = &self.journal {
            let next = u32::try_from(kept.names.json().len() + 1).ok();
            let next = next.and_then(NameId::of_number).ok_or(io::ErrorKind::OutOfMemory)?;
            kept.offset = journal.write_name(self.run, next, text, kept.offset)?;
        }
        Ok(kept.names.add(text))
    }

    /// The number of the next batch.
    pub(super) fn next_batch(&self) -> u64 {
        // Relaxed: a count publishes no other memory.
        self.batches.fetch_add(1, Ordering::Relaxed)
    }

    /// Accepts an event.
    ///
    /// # Errors
    /// [`Refused`]; the event was not accepted.
    pub(super) fn push(&self, record: &Record) -> Result<(), Refused> {
        match Brief::of(record) {
            Some(brief) => self.push_brief(&brief),
            None => self.push_words(|pos| record.to_words(self.run, pos)),
        }
    }

    /// Accepts a hit.
    ///
    /// # Errors
    /// As [`Live::push`].
    #[inline(always)]
    pub(super) fn push_brief(&self, brief: &Brief) -> Result<(), Refused> {
        let sum = brief.sum(self.run);
        self.push_words(|pos| brief.to_words(sum, pos))
    }

    #[inline(always)]
    fn push_words<const N: usize>(
        &self,
        encode: impl FnOnce(u64) -> [u64; N],
    ) -> Result<(), Refused> {
        let Some(journal) = &self.journal else {
            return Err(Refused::Sealed);
        };
        let pos = journal.ring.push(encode)?;
        if (pos + 1) & ((journal.ring.capacity() / 4).max(1) - 1) == 0 {
            self.wakeup.wake();
        } else {
            self.wakeup.wake_if_asleep();
        }
        Ok(())
    }

    /// For [`Live::wait_for_room`].
    pub(super) fn patience(&self) -> Patience {
        Patience { head: self.drained(), give_up: Instant::now() + STALL }
    }

    /// Waits until the ring may have room, for at most `slice`. False: give up, the event is lost.
    pub(super) fn wait_for_room(&self, patience: &mut Patience, slice: Duration) -> bool {
        // Relaxed: a hint; whoever misses it waits a slice more.
        if self.stuck.load(Ordering::Relaxed) {
            return false;
        }
        if lock(&self.thread).is_none() {
            return self.drain().is_ok();
        }
        self.wakeup.wake();
        let (mutex, condition) = &self.room;
        let guard = lock(mutex);
        if self.drained() == patience.head {
            drop(wait_for(condition, guard, slice));
        }
        let now = self.drained();
        if now != patience.head {
            *patience = self.patience();
        } else if Instant::now() >= patience.give_up {
            self.stuck.store(true, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// The first position that is not in the file.
    fn drained(&self) -> u64 {
        self.journal.as_ref().map_or(0, |journal| journal.ring.head())
    }

    /// Counts events that could not be accepted.
    pub(super) fn lose(&self, events: u64) {
        // Relaxed, and below: a count publishes no other memory.
        self.lost.fetch_add(events, Ordering::Relaxed);
        self.unreported().fetch_add(events, Ordering::Relaxed);
        self.wakeup.wake_if_asleep();
    }

    /// Events that were lost in this run.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Events of this run that the file doesn't have.
    pub(super) fn unwritten(&self) -> u64 {
        let waiting = self.journal.as_ref().map_or(0, |journal| journal.ring.tail());
        self.lost() + waiting.saturating_sub(self.drained())
    }

    fn unreported(&self) -> &SharedU64 {
        self.journal.as_ref().map_or(&self.unreported, Journal::lost)
    }

    fn has_work(&self) -> bool {
        let waiting = self
            .journal
            .as_ref()
            .is_some_and(|journal| journal.ring.tail_before_sleep() > journal.ring.head());
        waiting || self.unreported().load(Ordering::Relaxed) > 0
    }

    fn drain_until_stopped(&self) {
        // Relaxed: whoever stops the drainer wakes it afterwards, under the lock of `wakeup`.
        let stopped = || self.stop.load(Ordering::Relaxed);
        let mut took = Duration::ZERO;
        while !stopped() {
            self.wakeup.sleep(|| self.has_work() || stopped());
            if !stopped() {
                // What was accepted while the last blocks were appended has waited so long already.
                self.wakeup.wait(self.options.interval.saturating_sub(took));
            }
            let began = Instant::now();
            let _ = self.drain();
            took = began.elapsed();
        }
    }

    /// Appends every event that is accepted by now.
    ///
    /// # Errors
    /// Those of the system; the rest is tried again later.
    pub(super) fn flush(&self) -> io::Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let target = journal.ring.tail();
        loop {
            self.drain()?;
            if self.drained() >= target {
                return Ok(());
            }
            // Somebody is between taking a position and filling it.
            std::thread::yield_now();
        }
    }

    fn drain(&self) -> io::Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let mut work = lock(&self.work);
        let drained = self.drain_blocks(journal, &mut work);
        // Relaxed: see `wait_for_room`.
        self.stuck.store(drained.is_err(), Ordering::Relaxed);
        drained
    }

    /// Appends what was accepted before it began. Not what comes meanwhile: the lines of memory that a
    /// producer writes just now would go to and fro, and each block would be a small one.
    fn drain_blocks(&self, journal: &Journal, work: &mut Work) -> io::Result<()> {
        let mut end = None;
        loop {
            if !work.finished {
                self.report_losses(work);
            }
            let end = *end.get_or_insert_with(|| journal.ring.tail());
            if !self.gather(journal, work, end) || work.finished {
                return Ok(());
            }
            let held = self.path_lock()?;
            let start = work.sink.prepare(Some(&held))?;
            journal.set_intent(start);
            let appended = work.sink.append(&work.text, &work.ends);
            self.free_drained(journal, appended.lines);
            if !work.sink.has_fragment() {
                journal.clear_intent();
            }
            drop(held);
            appended.result?;
        }
    }

    /// The right to append. A folder that was removed is made again.
    fn path_lock(&self) -> io::Result<Held<'_>> {
        let lock = self.lock.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        match lock.acquire() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
                lock.acquire()
            }
            acquired => acquired,
        }
    }

    /// Fills the block with the events before `end` that are accepted. False: there is none.
    fn gather(&self, journal: &Journal, work: &mut Work, end: u64) -> bool {
        // The names of an event are kept before it is pushed, so those before `end` are known by now.
        let mut pos = self.drained();
        work.names.catch_up(lock(&self.names).names.json());
        work.text.clear();
        work.ends.clear();
        while pos < end && work.text.len() < BLOCK {
            let Some(record) = journal.read(self.run, pos) else {
                break;
            };
            // Nobody but us writes these words; were they damaged, a line without them is lost.
            match record {
                Some(record) => record.append_to(&mut work.text, self.run, pos, &work.names),
                None => self.lose(1),
            }
            work.ends.push(work.text.len());
            pos += 1;
        }
        !work.ends.is_empty()
    }

    fn free_drained(&self, journal: &Journal, lines: usize) {
        journal.ring.free_until(journal.ring.head() + lines as u64);
        let (mutex, condition) = &self.room;
        drop(lock(mutex));
        condition.notify_all();
    }

    /// Puts the line about losses among the events, once there is room for it.
    fn report_losses(&self, work: &mut Work) {
        let lost = self.unreported().load(Ordering::Relaxed);
        if lost == 0 {
            return;
        }
        work.names.catch_up(lock(&self.names).names.json());
        let Ok(op) = self.name(super::record::LOSS_OP) else {
            return;
        };
        let loss = recover::loss_record(clock::unix_time_s(), op, lost);
        if self.push(&loss).is_ok() {
            self.unreported().fetch_sub(lost, Ordering::Relaxed);
        }
    }

    /// Ends the run: every accepted event is written, and the journal removed. What can't be written
    /// stays in the journal, for a later recovery. A second call does nothing.
    pub(super) fn finish(&self) {
        let _ = self.flush();
        if let Some(journal) = &self.journal {
            journal.ring.seal();
        }
        self.stop.store(true, Ordering::Relaxed);
        self.wakeup.wake();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        let flushed = self.flush();
        let mut work = lock(&self.work);
        if let Some(journal) = self.journal.as_ref().filter(|_| !work.finished) {
            work.finished = true;
            let complete = flushed.is_ok() && self.drained() == journal.ring.tail();
            self.end_journal(journal, complete, &mut work);
        }
    }

    fn end_journal(&self, journal: &Journal, complete: bool, work: &mut Work) {
        if complete {
            self.unreported.store(journal.lost().swap(0, Ordering::Relaxed), Ordering::Relaxed);
            self.append_lines(&[], work);
            journal.lost().store(self.unreported.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let held = self.path_lock();
        if complete && journal.lost().load(Ordering::Relaxed) == 0 {
            let _ = journal.remove();
        }
        journal.unlock();
        forget_journal(journal.path());
        if let Ok(held) = held {
            // Children that are gone by now may have left theirs.
            let recovered = work.sink.recover(&held);
            if recovered.is_ok_and(|recovered| recovered.alive == 0) {
                held.remove_file();
            }
        }
    }
}

impl Work {
    fn new(sink: Sink) -> Self {
        Self {
            sink,
            names: JsonNames::default(),
            text: Vec::new(),
            ends: Vec::new(),
            direct: 0,
            finished: false,
        }
    }
}

fn forget_journal(path: &Path) {
    registry().journals().retain(|own| own != path);
}

/// A number that no other run has, also not one of a forked child.
fn new_run() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The number of this thread within the process, from 0.
#[must_use]
pub fn thread_number() -> u32 {
    static NEXT: StaticU64 = StaticU64::new(0);
    thread_local! {
        static NUMBER: u32 = NEXT.fetch_add(1, Ordering::Relaxed) as u32;
    }
    NUMBER.try_with(|number| *number).unwrap_or(u32::MAX)
}

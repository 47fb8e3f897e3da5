//! Lines that no journal holds: appended by the call that has them.

use super::{Live, Work};
use crate::clock;
use crate::sync::{Ordering, lock};
use crate::trace::record::{LOSS_OP, Record};
use crate::trace::recover;
use std::io;

impl Live {
    /// Appends events without the journal: where there is none, or after the run's end. Returns how
    /// many are lost.
    pub(in crate::trace) fn append_direct(&self, records: &[Record]) -> u64 {
        let mut work = lock(&self.work);
        if let Some(journal) = self.journal.as_ref().filter(|_| !work.finished) {
            // What this thread had accepted before the ring was sealed comes first (J2).
            let tail = journal.ring.tail();
            while self.drain_blocks(journal, &mut work).is_ok() && self.drained() < tail {
                std::thread::yield_now();
            }
        }
        self.append_lines(records, &mut work)
    }

    /// Appends the line about losses, if there were any, and one line per event.
    pub(super) fn append_lines(&self, records: &[Record], work: &mut Work) -> u64 {
        let lost = self.unreported.swap(0, Ordering::Relaxed);
        let loss = (lost > 0).then(|| self.name(LOSS_OP).ok()).flatten();
        let loss = loss.map(|op| recover::loss_record(clock::unix_time_s(), op, lost));
        work.names.catch_up(lock(&self.names).names.json());
        let first = self.journal.as_ref().map_or(0, |journal| journal.ring.tail());
        work.text.clear();
        work.ends.clear();
        for record in loss.iter().chain(records) {
            record.append_to(&mut work.text, self.run, first + work.direct, &work.names);
            work.ends.push(work.text.len());
            work.direct += 1;
        }
        let written = if work.ends.is_empty() { 0 } else { self.append_block(work) };
        let lines = written.saturating_sub(usize::from(loss.is_some()));
        if loss.is_some() && written == 0 {
            self.unreported.fetch_add(lost, Ordering::Relaxed);
        }
        let missing = (records.len() - lines) as u64;
        self.lost.fetch_add(missing, Ordering::Relaxed);
        self.unreported.fetch_add(missing, Ordering::Relaxed);
        missing
    }

    /// Appends the block and forgets what did not fit. Returns the lines that did.
    fn append_block(&self, work: &mut Work) -> usize {
        let held = match self.path_lock() {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return 0,
            // A device, or a folder that takes no lock file: appended without one.
            held => held.ok(),
        };
        if work.sink.prepare(held.as_ref()).is_err() {
            return 0;
        }
        let appended = work.sink.append(&work.text, &work.ends);
        work.sink.forget_fragment();
        appended.lines
    }
}

//! Completing what dead processes left: each of their accepted events once, none twice.
//!
//! Everything is decided from the journal and the trace alone, under the trace's lock: which of the
//! journal's events the trace has already (read from the journal's intent on), and which line a
//! fragment at its end belongs to. Before the first byte is written the intent is set, so a recovery
//! that is killed is recovered itself. A journal is removed only after all of its events are in the
//! trace (J7); a damaged one is kept under another name. One whose lock somebody holds belongs to a
//! living process and isn't touched.

use super::fork::registry;
use super::journal::{self, Found, is_journal_of};
use super::line::seq_of_line;
use super::lockfile::{Held, try_lock};
use super::name::{JsonNames, NameId};
use super::record::{LOSS_OP, PromptHash, Record, TopK};
use super::sink::{ends_whole, write};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a recovery found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Events that were appended.
    pub events: u64,
    /// Journals that were completed.
    pub journals: u64,
    /// Parts of journals that were damaged.
    pub damaged: u64,
    /// Journals of living processes, which were left alone.
    pub alive: u64,
    /// Events that those processes said were lost.
    pub lost: u64,
}

/// Completes `trace` from the journals next to it.
///
/// # Errors
/// Those of the system; what was done by then stays done, and a later call does the rest.
pub fn recover(trace: &Path) -> io::Result<Recovered> {
    let trace = std::fs::canonicalize(trace)?;
    let lock = registry().path_lock(&trace);
    let held = lock.acquire()?;
    let file = OpenOptions::new().read(true).append(true).open(&trace)?;
    let recovered = complete(&trace, &file, &held)?;
    let size = file.metadata()?.len();
    if !ends_whole(&file, size)? {
        write(&file, b"\n").1?;
    }
    if recovered.alive == 0 && registry().journals().iter().all(|own| !is_companion(own, &trace)) {
        held.remove_file();
    }
    Ok(recovered)
}

/// Appends to `file`, the trace at `path`, what dead processes left.
pub(super) fn complete(path: &Path, file: &File, held: &Held<'_>) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut dead = find_dead(path, &mut recovered)?;
    for journal in &mut dead {
        journal.find_missing(file)?;
    }
    // The line that was being written comes first, since it can only be completed at the end.
    let most = dead.iter().map(Dead::first_bytes).max().unwrap_or(0);
    let fragment = fragment_of(file, most)?;
    dead.sort_by_key(|journal| journal.begun(&fragment).is_none());
    for journal in dead {
        recovered.add(journal.finish(file, held)?);
    }
    Ok(recovered)
}

impl Recovered {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.journals += other.journals;
        self.damaged += other.damaged;
        self.alive += other.alive;
        self.lost += other.lost;
    }
}

/// The journal of a process that is gone. Its lock is ours for as long as `file` is open.
struct Dead {
    path: PathBuf,
    file: File,
    found: Found,
    /// Lines that the trace doesn't have.
    missing: Vec<Vec<u8>>,
    /// How many of them are events, and not the line about losses.
    events: u64,
}

fn find_dead(trace: &Path, recovered: &mut Recovered) -> io::Result<Vec<Dead>> {
    let mut dead = Vec::new();
    for path in journals_of(trace)? {
        // Ours: opening and closing it would give its lock away (W4).
        if registry().journals().contains(&path) {
            continue;
        }
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !try_lock(&file)? {
            recovered.alive += 1;
            continue;
        }
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        match journal::decode(&bytes) {
            Some(found) => dead.push(Dead { path, file, found, missing: Vec::new(), events: 0 }),
            None => std::fs::remove_file(&path)?,
        }
    }
    Ok(dead)
}

fn journals_of(trace: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = trace.parent().unwrap_or_else(|| Path::new("."));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if is_companion(&path, trace) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether `path` is the path of a journal of `trace`.
fn is_companion(path: &Path, trace: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(OsStr::to_os_string);
    match (name(path), name(trace)) {
        (Some(journal), Some(trace_name)) => {
            path.parent() == trace.parent()
                && is_journal_of(journal.as_bytes(), trace_name.as_bytes())
        }
        _ => false,
    }
}

impl Dead {
    /// Looks which events the trace has.
    fn find_missing(&mut self, trace: &File) -> io::Result<()> {
        self.add_loss();
        let present = match self.found.intent {
            Some(offset) => {
                seqs_from(trace, offset, self.found.run, most_bytes(&self.found.names))?
            }
            None => HashSet::new(),
        };
        for (pos, record) in self.found.events.iter().filter(|(pos, _)| !present.contains(pos)) {
            let mut line = Vec::new();
            record.append_to(&mut line, self.found.run, *pos, &self.found.names);
            self.missing.push(line);
            self.events += u64::from(record.lost.is_none());
        }
        Ok(())
    }

    /// Bytes of the first line that is missing.
    fn first_bytes(&self) -> usize {
        self.missing.first().map_or(0, Vec::len)
    }

    /// Losses that stand in no line get one.
    fn add_loss(&mut self) {
        let found = &mut self.found;
        if found.lost > 0 {
            let ts = found.events.last().map_or(0.0, |(_, record)| record.ts);
            let op = found.names.push(LOSS_OP);
            let loss = loss_record(ts, op, found.lost);
            found.events.push((found.next, loss));
        }
    }

    /// The bytes of the first missing line that the trace has already, if its fragment is its
    /// beginning.
    fn begun(&self, fragment: &Fragment) -> Option<usize> {
        match fragment {
            Fragment::Short(bytes) if !bytes.is_empty() => {
                let begins = self.missing.first()?.starts_with(bytes);
                begins.then_some(bytes.len())
            }
            _ => None,
        }
    }

    fn finish(self, trace: &File, _held: &Held<'_>) -> io::Result<Recovered> {
        if !self.missing.is_empty() {
            self.append_missing(trace)?;
        }
        if self.found.damaged > 0 {
            std::fs::rename(&self.path, damaged_path(&self.path))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        let Found { damaged, lost, .. } = self.found;
        Ok(Recovered { events: self.events, journals: 1, damaged, alive: 0, lost })
    }

    fn append_missing(&self, trace: &File) -> io::Result<()> {
        let fragment = fragment_of(trace, self.first_bytes())?;
        let mut text = self.missing.concat();
        let size = trace.metadata()?.len();
        let start = if let Some(begun) = self.begun(&fragment) {
            text.drain(..begun);
            size - begun as u64
        } else {
            if !fragment.is_empty() {
                text.insert(0, b'\n');
            }
            size
        };
        if self.found.intent.is_none() {
            journal::write_intent(&self.file, start)?;
        }
        write(trace, &text).1
    }
}

/// The line that says how many events were lost.
pub(super) fn loss_record(ts: f64, op: NameId, lost: u64) -> Record {
    Record {
        ts,
        probe: None,
        view_id: None,
        prompt_hash: PromptHash::inline(b"").expect("nothing fits"),
        top_k: TopK::Integer(0),
        op: Some(op),
        wall_ms: 0.0,
        hit: false,
        thread: 0,
        key: None,
        batch: None,
        bytes: None,
        error: None,
        waited: false,
        lost: Some(lost),
    }
}

fn damaged_path(journal: &Path) -> PathBuf {
    let mut path = OsString::from(journal);
    path.push(".damaged");
    path.into()
}

/// No line of a run with these names has more bytes: six texts, and numbers. A journal whose texts are
/// damaged says too little of them, hence the least.
fn most_bytes(names: &JsonNames) -> usize {
    const LEAST: usize = 1 << 20;
    LEAST.max(1024 + 6 * names.longest())
}

/// The `seq`s of a run's whole lines in a trace, from `offset` on. A line of more than `most` bytes is
/// somebody else's, and never held in memory.
fn seqs_from(trace: &File, offset: u64, run: u64, most: usize) -> io::Result<HashSet<u64>> {
    let size = trace.metadata()?.len();
    let mut reader = BufReader::new(trace);
    // A trace that is shorter than it was has been replaced; all of it may be ours.
    reader.seek(SeekFrom::Start(if offset <= size { offset } else { 0 }))?;
    let mut seqs = HashSet::new();
    let mut line = Vec::new();
    while reader.by_ref().take(most as u64).read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            seqs.extend(seq_of_line(&line, run));
        } else {
            reader.skip_until(b'\n')?;
        }
        line.clear();
    }
    Ok(seqs)
}

/// What stands after the last newline.
enum Fragment {
    /// Nothing, if it is empty.
    Short(Vec<u8>),
    /// More than any line that it could be the beginning of.
    Long,
}

impl Fragment {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Short(bytes) if bytes.is_empty())
    }
}

/// What stands after the last newline, if it has at most `most` bytes.
fn fragment_of(trace: &File, most: usize) -> io::Result<Fragment> {
    let size = trace.metadata()?.len();
    let from = size.saturating_sub(most as u64 + 1);
    let mut tail = vec![0; (size - from) as usize];
    trace.read_exact_at(&mut tail, from)?;
    match tail.iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => Ok(Fragment::Short(tail.split_off(newline + 1))),
        None if tail.len() <= most => Ok(Fragment::Short(tail)),
        None => Ok(Fragment::Long),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Batch;
    use super::super::record::tests::example;
    use super::*;
    use std::io::Write as _;

    /// The part of a line that says whose it is.
    fn says(seq: u64) -> String {
        format!(", \"run\": \"00000000000000ab\", \"thread\": 0, \"seq\": {seq}}}\n")
    }

    #[test]
    fn a_line_of_six_long_texts_is_not_too_long() {
        let mut names = JsonNames::default();
        let name = names.push(&[b'9'; 300_000]);
        let record = Record {
            probe: Some(name),
            view_id: Some(name),
            op: Some(name),
            error: Some(name),
            prompt_hash: PromptHash::Name(name),
            top_k: TopK::Digits(name),
            batch: Some(Batch { id: u64::MAX, size: u32::MAX, wall_ms: f64::MAX }),
            key: Some(u64::MAX),
            bytes: Some(u64::MAX),
            lost: Some(u64::MAX),
            waited: true,
            ..example(&mut names)
        };
        let mut line = Vec::new();
        record.append_to(&mut line, u64::MAX, u64::MAX, &names);
        assert!(line.len() <= most_bytes(&names));
    }

    #[test]
    fn a_line_that_is_too_long_is_nobodys_and_costs_no_other() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(3 << 20);
        write!(file, "{{{}{{{long}{}{{{}", says(1), says(2), says(3)).unwrap();
        let seqs = seqs_from(&file, 0, 0xab, 1 << 20).unwrap();
        assert_eq!(seqs, HashSet::from([1, 3]));
    }

    #[test]
    fn only_the_end_of_a_trace_is_read_for_its_fragment() {
        let file = tempfile::tempfile().unwrap();
        let short = |most| match fragment_of(&file, most).unwrap() {
            Fragment::Short(bytes) => Some(bytes),
            Fragment::Long => None,
        };
        assert_eq!(short(4), Some(Vec::new()));
        (&file).write_all(b"torn").unwrap();
        assert_eq!((short(4), short(3)), (Some(b"torn".to_vec()), None));
        (&file).write_all(b"\n").unwrap();
        assert_eq!((short(4), short(0)), (Some(Vec::new()), Some(Vec::new())));
        (&file).write_all(b"12345").unwrap();
        assert_eq!((short(5), short(4)), (Some(b"12345".to_vec()), None));
    }
}

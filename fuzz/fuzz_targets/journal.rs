//! Any bytes as a journal: no panic, and no event that nobody wrote.
//!
//! The input is read twice: as it is, and as a list of changes to a journal that a writer left
//! behind, which gets past the checksums. Whatever a changed journal still yields must be one of
//! the events that were written, at its own position.

#![no_main]

use forwardcache::trace::journal::{Found, decode};
use forwardcache::trace::{PromptHash, Options, Record, TopK, Writer, Written};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

const EVENTS: u64 = 5;

fuzz_target!(|data: &[u8]| {
    if let Some(found) = decode(data) {
        lines_of(&found);
    }
    let (bytes, written) = journal();
    if let Some(found) = decode(&changed(bytes, data)) {
        let whole = lines_of(written);
        // A run or a text that was changed is one that the checksums refuse.
        let own = lines_of(&found);
        assert!(own.iter().all(|line| whole.contains(line)), "an event that nobody wrote");
    }
});

/// The lines of all events, made as a recovery makes them.
fn lines_of(found: &Found) -> Vec<(u64, Vec<u8>)> {
    assert!(found.events.is_sorted_by(|(one, _), (other, _)| one < other), "a position twice");
    let line_of = |(pos, record): &(u64, Record)| {
        let mut line = Vec::new();
        record.append_to(&mut line, found.run, *pos, &found.names);
        (*pos, line)
    };
    found.events.iter().map(line_of).collect()
}

/// `data`: offset (two bytes), length and kind of a change, and its bytes; then the next one.
fn changed(journal: &[u8], mut data: &[u8]) -> Vec<u8> {
    let mut bytes = journal.to_vec();
    while let Some((&[at_low, at_high, length, how], rest)) = data.split_first_chunk() {
        let at = usize::from(u16::from_le_bytes([at_low, at_high])) % bytes.len();
        let length = usize::from(length).min(rest.len()).min(bytes.len() - at);
        let (change, rest) = rest.split_at(length);
        if how == u8::MAX {
            bytes.truncate(at.max(1));
        } else {
            bytes[at..at + length].copy_from_slice(change);
        }
        data = rest;
    }
    bytes
}

/// A journal as a killed process leaves it, and what it holds.
fn journal() -> &'static (Vec<u8>, Found) {
    static JOURNAL: OnceLock<(Vec<u8>, Found)> = OnceLock::new();
    JOURNAL.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let options =
            Options { interval: Duration::from_secs(3600), fsync: false, journal_events: 32 };
        let path = folder.path().join("trace.jsonl");
        let writer = Writer::open(&path, options).expect("the trace can be opened");
        (1..=EVENTS).for_each(|number| write(&writer, number));
        let bytes = std::fs::read(journal_beside(folder.path())).expect("the journal is there");
        let found = decode(&bytes).expect("it has a header");
        assert_eq!((found.events.len() as u64, found.damaged), (EVENTS, 0));
        (bytes, found)
    })
}

fn journal_beside(folder: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.find(|path| path.extension().is_some_and(|kind| kind == "journal")).expect("a journal")
}

fn write(writer: &Writer, number: u64) {
    let run = writer.run().expect("it is open");
    let record = Record {
        ts: 1_700_000_000.5,
        probe: run.name(format!("probe {number}").as_bytes()),
        view_id: run.name(b"base"),
        prompt_hash: PromptHash::inline(b"a9993e364706").expect("it fits"),
        top_k: TopK::Integer(number as i64),
        op: run.name(b"op"),
        wall_ms: 0.25,
        hit: number % 2 == 0,
        thread: 0,
        key: Some(number),
        batch: None,
        // Without them, a hit takes half of a slot.
        bytes: (number % 2 == 1).then_some(number),
        error: None,
        waited: false,
        lost: None,
    };
    assert_eq!(run.write(&record), Written::Done);
}

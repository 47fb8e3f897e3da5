//! The trace as a whole: what is in the file after a flush, a close, a kill, a full disk.
//!
//! A kill is played by copying journal and trace at some moment into another folder, where nobody
//! holds a lock. Real kills, forks and faults: `tests/trace`.

mod brief;

use super::Options;
use super::journal::{self, Found};
use super::name::NameId;
use super::record::{PromptHash, Record, TopK};
use super::recover::{Recovered, recover};
use super::writer::{Writer, Written, this_thread};
use proptest::prelude::*;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Where the slots begin, and the losses stand, in a journal.
const SLOTS: usize = 4096;
const LOSSES: usize = 64;

const QUIET: Options =
    Options { interval: Duration::from_secs(3600), fsync: false, journal_events: 256 };

fn folder() -> TempDir {
    tempfile::tempdir().expect("the temporary folder can be written")
}

fn open(path: &Path) -> Writer {
    Writer::open(path, QUIET).unwrap()
}

fn write(writer: &Writer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let run = writer.run().unwrap();
        let record = record(number, run.name(b"view").unwrap(), run.name(b"op").unwrap());
        let mut patience = run.patience();
        while run.write(&record) == Written::Full {
            assert!(run.wait_for_room(&mut patience, Duration::from_millis(50)));
        }
    }
}

fn record(number: u32, view_id: NameId, op: NameId) -> Record {
    Record {
        ts: 1.5,
        probe: None,
        view_id: Some(view_id),
        prompt_hash: PromptHash::inline(b"prompt").unwrap(),
        top_k: TopK::Integer(i64::from(number)),
        op: Some(op),
        wall_ms: 0.25,
        hit: false,
        thread: this_thread(),
        key: None,
        batch: None,
        bytes: None,
        error: None,
        waited: false,
        lost: None,
    }
}

/// The numbers of the lines, each of which has to be JSON.
fn numbers(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| line["top_k"].as_u64().unwrap()).collect()
}

fn journals(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "journal")).collect()
}

/// The folder as a kill at this moment would leave it, between two blocks.
fn killed(live: &Path) -> TempDir {
    let dead = folder();
    let trace = fs::canonicalize(live.join("trace.jsonl")).unwrap();
    let lock = super::fork::registry().path_lock(&trace);
    let _held = lock.acquire().unwrap();
    for entry in fs::read_dir(live).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, dead.path().join(from.file_name().unwrap())).unwrap();
    }
    dead
}

fn names_of(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn close_leaves_the_complete_file_and_nothing_else() {
    let folder = folder();
    let path = folder.path().join("a/trace.jsonl");
    let writer = open(&path);
    assert!(path.exists(), "at once, with its folders");
    write(&writer, 0..20);
    assert_eq!((writer.close(), writer.close()), (0, 0));
    assert!(writer.run().is_none(), "a closed writer is silent");
    assert_eq!(numbers(&path), (0..20).collect::<Vec<_>>());
    assert_eq!(names_of(path.parent().unwrap()), ["trace.jsonl"]);
}

#[test]
fn a_flush_brings_every_event_into_the_file() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    for upto in [1, 30, 100, 300] {
        let from = numbers(&path).len() as u32;
        write(&writer, from..upto);
        writer.flush();
        assert_eq!(numbers(&path).len(), upto as usize);
    }
}

#[test]
fn an_event_is_in_the_file_after_the_interval() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let options = Options { interval: Duration::from_millis(20), ..QUIET };
    let writer = Writer::open(&path, options).unwrap();
    for upto in 1..4 {
        write(&writer, upto - 1..upto);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while numbers(&path).len() < upto as usize {
            assert!(std::time::Instant::now() < end, "the thread woke up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_and_recovery_writes_nothing_twice() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..7);
    writer.flush();
    write(&writer, 7..50);
    let dead = killed(folder.path());
    let trace = dead.path().join("trace.jsonl");
    let events = 50 - numbers(&trace).len() as u64;
    let expected = Recovered { events, journals: 1, ..Recovered::default() };
    assert_eq!(recover(&trace).unwrap(), expected);
    assert_eq!(numbers(&trace), (0..50).collect::<Vec<_>>());
    assert_eq!(recover(&trace).unwrap(), Recovered::default());
    assert_eq!(names_of(dead.path()), ["trace.jsonl"]);
}

#[test]
fn opening_the_path_again_recovers_it() {
    let folder = folder();
    let writer = open(&folder.path().join("trace.jsonl"));
    write(&writer, 0..5);
    let dead = killed(folder.path());
    let trace = dead.path().join("trace.jsonl");
    let again = open(&trace);
    write(&again, 5..8);
    again.close();
    assert_eq!(numbers(&trace), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_journal_of_this_process_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..5);
    assert_eq!(recover(&path).unwrap(), Recovered::default());
    assert_eq!((numbers(&path).len(), journals(folder.path()).len()), (0, 1));
    writer.close();
    assert_eq!(numbers(&path).len(), 5);
}

/// What the drainer does to the file before it is killed: its intent, and some bytes of the block.
fn killed_while_appending(cut: usize) -> (TempDir, PathBuf) {
    loop {
        // The thread may have been awake and have written the block already.
        if let Some(killed) = try_to_kill_while_appending(cut) {
            return killed;
        }
    }
}

fn try_to_kill_while_appending(cut: usize) -> Option<(TempDir, PathBuf)> {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..3);
    writer.flush();
    let before = fs::metadata(&path).unwrap().len();
    write(&writer, 3..6);
    let dead = killed(folder.path());
    writer.close();
    let text = fs::read(&path).unwrap();
    let block = &text[before as usize..];
    let trace = dead.path().join("trace.jsonl");
    if numbers(&trace).len() > 3 {
        return None;
    }
    let [journal] = &journals(dead.path())[..] else { panic!("one journal") };
    journal::write_intent(&fs::OpenOptions::new().write(true).open(journal).unwrap(), before)
        .unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&trace).unwrap();
    file.write_all(&block[..cut.min(block.len())]).unwrap();
    Some((dead, trace))
}

#[test]
fn a_kill_after_any_byte_of_a_block_is_recovered_exactly_once() {
    for cut in 0..600 {
        let (_dead, trace) = killed_while_appending(cut);
        recover(&trace).unwrap();
        assert_eq!(numbers(&trace), (0..6).collect::<Vec<_>>(), "cut after {cut} bytes");
    }
}

#[test]
fn a_recovery_that_is_killed_itself_is_recovered() {
    for cut in (0..600).step_by(7) {
        let (dead, trace) = killed_while_appending(cut);
        // The journal is still there when the recovery has appended: killed before it removed it.
        let kept = killed(dead.path());
        recover(&trace).unwrap();
        fs::copy(&trace, kept.path().join("trace.jsonl")).unwrap();
        let again = kept.path().join("trace.jsonl");
        recover(&again).unwrap();
        assert_eq!(numbers(&again), (0..6).collect::<Vec<_>>(), "cut after {cut} bytes");
    }
}

#[test]
fn a_torn_line_of_somebody_else_gets_its_newline_first() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    fs::write(&path, "{\"top_k\": 1}\n{\"torn").unwrap();
    let writer = open(&path);
    write(&writer, 0..2);
    writer.close();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().nth(1), Some("{\"torn"));
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_line_that_another_process_began_is_completed_by_the_living_one() {
    let (dead, trace) = killed_while_appending(200);
    // Nobody looked for journals when this one opened.
    let journal = journals(dead.path()).remove(0);
    let aside = dead.path().join("aside");
    fs::rename(&journal, &aside).unwrap();
    let text = fs::read(&trace).unwrap();
    let living = open(&trace);
    fs::write(&trace, &text).unwrap();
    fs::rename(&aside, &journal).unwrap();
    write(&living, 6..8);
    living.close();
    assert_eq!(numbers(&trace), (0..8).collect::<Vec<_>>());
}

#[test]
fn writers_of_one_path_share_a_run_until_the_last_closes() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let (one, other) = (open(&path), open(&path));
    assert_eq!(one.run().unwrap().id(), other.run().unwrap().id());
    assert_eq!(journals(folder.path()).len(), 1);
    write(&one, 0..3);
    one.close();
    assert_eq!(numbers(&path).len(), 3, "a close writes what was accepted");
    write(&other, 3..5);
    other.close();
    assert_eq!(numbers(&path), (0..5).collect::<Vec<_>>());
    assert!(journals(folder.path()).is_empty());
}

#[test]
fn a_full_journal_waits_for_its_thread() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..10_000);
    assert_eq!(writer.close(), 0);
    assert_eq!(numbers(&path), (0..10_000).collect::<Vec<_>>());
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_full_disk_swallows_is_counted() {
    let writer = open(Path::new("/dev/full"));
    write(&writer, 0..3);
    assert_eq!((writer.lost(), writer.close()), (3, 3));
}

#[test]
fn losses_get_a_line_when_there_is_room_again() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..2);
    writer.run().unwrap().lose(5);
    write(&writer, 2..3);
    assert_eq!(writer.lost(), 5);
    writer.close();
    let text = fs::read_to_string(&path).unwrap();
    let losses: Vec<_> = text.lines().filter(|line| line.contains("\"trace_lost\"")).collect();
    assert_eq!((losses.len(), text.lines().count()), (1, 4));
    assert!(losses[0].ends_with("\"lost\": 5}"), "{losses:?}");
}

#[test]
fn losses_of_a_dead_process_get_their_line_once() {
    let (dead, journal) = killed_with_journal(2);
    let mut bytes = fs::read(&journal).unwrap();
    bytes[LOSSES] = 9;
    fs::write(&journal, bytes).unwrap();
    let trace = dead.path().join("trace.jsonl");
    let recovered = recover(&trace).unwrap();
    assert_eq!(recovered.lost, 9);
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.lines().last().unwrap().ends_with("\"lost\": 9}"));
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn a_removed_trace_is_made_again() {
    let folder = folder();
    let path = folder.path().join("deep/trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..2);
    writer.flush();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    write(&writer, 2..4);
    assert_eq!(writer.close(), 0);
    assert_eq!(numbers(&path), [2, 3]);
}

#[test]
fn a_run_that_was_finished_under_its_writer_goes_on_line_by_line() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    write(&writer, 0..2);
    let live = super::fork::registry()
        .lives()
        .iter()
        .find(|live| live.is_of(&path.canonicalize().unwrap()))
        .cloned();
    live.unwrap().finish();
    assert!(journals(folder.path()).is_empty());
    write(&writer, 2..4);
    assert_eq!(numbers(&path), [0, 1, 2, 3]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().last().unwrap().contains("\"seq\": 3"));
    assert_eq!(writer.close(), 0);
}

// The journal's decoding

fn journal_with_events() -> (Vec<u8>, Found) {
    loop {
        let (_dead, journal) = killed_with_journal(40);
        let bytes = fs::read(journal).unwrap();
        let found = journal::decode(&bytes).unwrap();
        assert_eq!(found.damaged, 0);
        // The thread may have been awake and have drained some.
        if found.events.len() == 40 {
            return (bytes, found);
        }
    }
}

fn killed_with_journal(events: u32) -> (TempDir, PathBuf) {
    let folder = folder();
    let writer = open(&folder.path().join("trace.jsonl"));
    write(&writer, 0..events);
    let dead = killed(folder.path());
    let journal = journals(dead.path()).remove(0);
    (dead, journal)
}

#[test]
fn a_journal_without_a_header_held_nothing() {
    assert_eq!(journal::decode(&[]), None);
    assert_eq!(journal::decode(&[0; 10_000]), None);
}

#[test]
fn a_journal_that_is_cut_short_gives_what_is_there() {
    let (bytes, whole) = journal_with_events();
    for length in (0..bytes.len()).step_by(61) {
        let Some(found) = journal::decode(&bytes[..length]) else { continue };
        assert!(found.events.iter().all(|event| whole.events.contains(event)));
        assert!(found.events.len() == 40 || found.damaged > 0, "{length} bytes");
    }
}

#[test]
fn a_damaged_journal_gives_the_rest_and_is_kept() {
    let (dead, journal) = killed_with_journal(10);
    let trace = dead.path().join("trace.jsonl");
    if numbers(&trace).len() > 7 {
        // The thread was awake; the event to be damaged is written. Another time.
        return a_damaged_journal_gives_the_rest_and_is_kept();
    }
    let mut bytes = fs::read(&journal).unwrap();
    bytes[SLOTS + 7 * 128 + 40] ^= 1;
    fs::write(&journal, bytes).unwrap();
    assert_eq!(recover(&trace).unwrap().damaged, 1);
    assert_eq!(numbers(&trace), [0, 1, 2, 3, 4, 5, 6, 8, 9]);
    assert!(names_of(dead.path()).iter().any(|name| name.ends_with(".journal.damaged")));
    assert_eq!(recover(&trace).unwrap(), Recovered::default());
}

proptest! {
    #[test]
    fn any_bytes_give_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let _ = journal::decode(&bytes);
    }

    #[test]
    fn damage_gives_no_event_that_was_not_written(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
    ) {
        static WHOLE: std::sync::OnceLock<(Vec<u8>, Found)> = std::sync::OnceLock::new();
        let (bytes, whole) = WHOLE.get_or_init(journal_with_events);
        let mut bytes = bytes.clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let found = journal::decode(&bytes).unwrap_or_default();
        prop_assert!(found.events.iter().all(|event| whole.events.contains(event)));
        crate::proof::done(1, "damaged copies");
    }
}

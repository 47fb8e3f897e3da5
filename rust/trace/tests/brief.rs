//! Hits, which take half of a slot, among events that take all of it, and journals from before that.

use super::super::brief::Brief;
use super::*;

/// Hits of single calls take half of a slot; the others of `numbers` take all of it.
fn write_hits(writer: &Writer, numbers: std::ops::Range<u32>) {
    let run = writer.run().unwrap();
    let (view, op) = (run.name(b"view").unwrap(), run.name(b"op").unwrap());
    for number in numbers {
        let hit = number % 3 != 1;
        let prompt_hash = PromptHash::hex(*b"a9993e364706");
        let record = Record { hit, prompt_hash, key: Some(7), ..record(number, view, op) };
        assert_eq!(Brief::of(&record).is_some(), hit);
        assert_eq!(run.write(&record), Written::Done);
    }
}

#[test]
fn hits_among_others_are_written_in_order_and_recovered_as_the_same_lines() {
    let folder = folder();
    let path = folder.path().join("trace.jsonl");
    let writer = open(&path);
    // Two laps: where a hit lies now, another event lay before.
    for from in (0..500).step_by(100) {
        write_hits(&writer, from..from + 100);
        writer.flush();
    }
    write_hits(&writer, 500..600);
    let dead = killed(folder.path());
    let trace = dead.path().join("trace.jsonl");
    recover(&trace).unwrap();
    writer.close();
    assert_eq!(numbers(&path), (0..600).collect::<Vec<_>>());
    assert_eq!(fs::read(&trace).unwrap(), fs::read(&path).unwrap());
}

#[test]
fn a_damaged_hit_costs_no_other_event() {
    let (dead, journal) = loop {
        let folder = folder();
        let writer = open(&folder.path().join("trace.jsonl"));
        write_hits(&writer, 0..10);
        let dead = killed(folder.path());
        // Otherwise the thread was awake, and the event to be damaged is written. Another time.
        if numbers(&dead.path().join("trace.jsonl")).is_empty() {
            let journal = journals(dead.path()).remove(0);
            break (dead, journal);
        }
    };
    let mut bytes = fs::read(&journal).unwrap();
    bytes[SLOTS + 6 * 128 + 40] ^= 1;
    fs::write(&journal, bytes).unwrap();
    let trace = dead.path().join("trace.jsonl");
    assert_eq!(recover(&trace).unwrap().damaged, 1);
    assert_eq!(numbers(&trace), [0, 1, 2, 3, 4, 5, 7, 8, 9]);
}

/// Left by a killed process from before there were brief events: eight slots, five events are owed.
#[test]
fn a_journal_of_whole_slots_is_recovered() {
    let folder = folder();
    let trace = folder.path().join("trace.jsonl");
    let journal = folder.path().join("trace.jsonl.32c1f4388afeb5b1.journal");
    fs::write(&trace, "").unwrap();
    fs::write(&journal, include_bytes!("whole_slots.journal")).unwrap();
    let expected = Recovered { events: 5, journals: 1, ..Recovered::default() };
    assert_eq!(recover(&trace).unwrap(), expected);
    assert_eq!(fs::read(&trace).unwrap(), include_bytes!("whole_slots.jsonl"));
}

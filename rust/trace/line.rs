//! One event as a line of JSON.
//!
//! The line is a pure function of the event's words, the run and its names, so whoever finds a
//! journal writes the same line as the process that left it (J6).

use super::json;
use super::name::{JsonNames, NameId};
use super::record::{INLINE_HASH, PromptHash, Record, TopK};
use crate::key::digest_hex;

impl Record {
    /// Appends the event as one line of JSON, its newline included.
    pub fn append_to(&self, line: &mut Vec<u8>, run: u64, seq: u64, names: &JsonNames) {
        let name = |id: Option<NameId>| id.and_then(|id| names.get(id));
        line.extend_from_slice(b"{\"ts\": ");
        json::float(line, self.ts);
        line.extend_from_slice(b", \"probe\": ");
        line.extend_from_slice(name(self.probe).unwrap_or(b"null"));
        line.extend_from_slice(b", \"view_id\": ");
        line.extend_from_slice(name(self.view_id).unwrap_or(b"\"\""));
        line.extend_from_slice(b", \"prompt_hash\": ");
        match &self.prompt_hash {
            PromptHash::Inline(text) => {
                let bytes = text.to_le_bytes();
                quoted(line, &bytes[..usize::from(bytes[INLINE_HASH])]);
            }
            PromptHash::Name(id) => line.extend_from_slice(name(Some(*id)).unwrap_or(b"\"\"")),
        }
        line.extend_from_slice(b", \"top_k\": ");
        self.append_top_k(line, names);
        line.extend_from_slice(b", \"op\": ");
        line.extend_from_slice(name(self.op).unwrap_or(b"\"\""));
        line.extend_from_slice(b", \"wall_ms\": ");
        json::float(line, self.wall_ms);
        line.extend_from_slice(if self.hit { b", \"hit\": true" } else { b", \"hit\": false" });
        append_identity(line, run, self.thread, seq);
        self.append_further_fields(line, names);
        line.extend_from_slice(b"}\n");
    }

    fn append_top_k(&self, line: &mut Vec<u8>, names: &JsonNames) {
        match self.top_k {
            TopK::None => line.extend_from_slice(b"null"),
            TopK::Integer(integer) => json::integer(line, integer),
            TopK::Digits(id) => {
                let quoted = names.get(id).unwrap_or(b"\"0\"");
                line.extend_from_slice(&quoted[1..quoted.len() - 1]);
            }
        }
    }

    fn append_further_fields(&self, line: &mut Vec<u8>, names: &JsonNames) {
        if let Some(key) = self.key {
            line.extend_from_slice(b", \"key\": ");
            quoted(line, &digest_hex(key));
        }
        if let Some(batch) = self.batch {
            line.extend_from_slice(b", \"batch\": ");
            json::integer(line, batch.id);
            line.extend_from_slice(b", \"batch_size\": ");
            json::integer(line, batch.size);
            line.extend_from_slice(b", \"batch_wall_ms\": ");
            json::float(line, batch.wall_ms);
        }
        if let Some(bytes) = self.bytes {
            line.extend_from_slice(b", \"bytes\": ");
            json::integer(line, bytes);
        }
        if let Some(error) = self.error.and_then(|id| names.get(id)) {
            line.extend_from_slice(b", \"error\": ");
            line.extend_from_slice(error);
        }
        if self.waited {
            line.extend_from_slice(b", \"waited\": true");
        }
        if let Some(lost) = self.lost {
            line.extend_from_slice(b", \"lost\": ");
            json::integer(line, lost);
        }
    }
}

fn append_identity(line: &mut Vec<u8>, run: u64, thread: u32, seq: u64) {
    line.extend_from_slice(b", \"run\": ");
    quoted(line, &digest_hex(run));
    line.extend_from_slice(b", \"thread\": ");
    json::integer(line, thread);
    line.extend_from_slice(b", \"seq\": ");
    json::integer(line, seq);
}

/// The `seq` of a line that the run `run` wrote; None for any other line.
///
/// Inside a JSON string every quote is escaped, so the pattern can stand nowhere else.
#[must_use]
pub fn seq_of_line(line: &[u8], run: u64) -> Option<u64> {
    let mut run_field = b", \"run\": ".to_vec();
    quoted(&mut run_field, &digest_hex(run));
    let after_run = after(line, &run_field)?;
    let digits = after(after_run, b", \"seq\": ")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn after<'l>(line: &'l [u8], pattern: &[u8]) -> Option<&'l [u8]> {
    let start = line.windows(pattern.len()).position(|window| window == pattern)?;
    Some(&line[start + pattern.len()..])
}

fn quoted(line: &mut Vec<u8>, plain: &[u8]) {
    line.push(b'"');
    line.extend_from_slice(plain);
    line.push(b'"');
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::record::Batch;
    use super::super::record::tests::{example, records};
    use super::*;
    use proptest::prelude::*;

    fn line(record: &Record, names: &JsonNames) -> String {
        let mut line = Vec::new();
        record.append_to(&mut line, 0xab, 7, names);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_has_the_eight_fields_then_its_identity() {
        let mut names = JsonNames::default();
        let record = example(&mut names);
        let expected = concat!(
            r#"{"ts": 1700000000.5, "probe": null, "view_id": "base", "#,
            r#""prompt_hash": "a9993e364706", "top_k": 8, "op": "next_token_dist", "#,
            r#""wall_ms": 0.25, "hit": true, "run": "00000000000000ab", "thread": 3, "seq": 7}"#,
            "\n"
        );
        assert_eq!(line(&record, &names), expected);
    }

    #[test]
    fn further_fields_stand_in_their_order() {
        let mut names = JsonNames::default();
        let record = Record {
            key: Some(0x0123_4567_89ab_cdef),
            batch: Some(Batch { id: 2, size: 3, wall_ms: 0.5 }),
            bytes: Some(4),
            error: Some(names.push(b"ValueError")),
            waited: true,
            lost: Some(5),
            top_k: TopK::Digits(names.push(b"100000000000000000000000")),
            prompt_hash: PromptHash::Name(names.push(b"somebody's own text")),
            ..example(&mut names)
        };
        let line = line(&record, &names);
        let end = concat!(
            r#""seq": 7, "key": "0123456789abcdef", "batch": 2, "batch_size": 3, "#,
            r#""batch_wall_ms": 0.5, "bytes": 4, "error": "ValueError", "waited": true, "#,
            "\"lost\": 5}\n"
        );
        assert!(line.ends_with(end), "{line}");
        assert!(line.contains(r#""prompt_hash": "somebody's own text""#));
        assert!(line.contains(r#""top_k": 100000000000000000000000,"#));
    }

    #[test]
    fn a_line_tells_its_seq_to_its_own_run_alone() {
        let mut names = JsonNames::default();
        let record = Record {
            probe: Some(names.push(br#"x", "run": "00000000000000ab", "seq": 9"#)),
            ..example(&mut names)
        };
        let line = line(&record, &names);
        assert_eq!(seq_of_line(line.as_bytes(), 0xab), Some(7));
        assert_eq!(seq_of_line(line.as_bytes(), 0xac), None);
        assert_eq!(seq_of_line(br#"{"run": "00000000000000ab", "seq": "#, 0xab), None);
    }

    proptest! {
        #[test]
        fn every_line_is_json_and_tells_its_seq(record in records(), run: u64, seq: u64) {
            let mut names = JsonNames::default();
            ["a", "ü", "1234", "\"", "\\", "\n", "😀", "", "x"].iter().for_each(|text| {
                names.push(text.as_bytes());
            });
            let digits = TopK::Digits(NameId::of_number(3).unwrap());
            let top_k = if let TopK::Digits(_) = record.top_k { digits } else { record.top_k };
            let record = Record { top_k, ..record };
            let mut line = Vec::new();
            record.append_to(&mut line, run, seq, &names);
            prop_assert_eq!(seq_of_line(&line, run), Some(seq));
            let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(object["seq"].as_u64(), Some(seq));
            prop_assert_eq!(object["ts"].as_f64(), Some(record.ts));
        }
    }
}

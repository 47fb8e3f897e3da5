//! What one line of the trace says.

use super::json;
use crate::key::KeyDigest;

/// One prompt of one call. Text is generalized UTF-8 (see `key`).
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Seconds since the epoch.
    pub ts: f64,
    /// Who asked, if anybody said so.
    pub probe: Option<&'a [u8]>,
    /// The view, as it is called in the trace.
    pub view_id: &'a [u8],
    /// The prompt's label.
    pub prompt_hash: &'a [u8],
    /// The number of tokens asked for; null where it was no integer.
    pub top_k: Option<i128>,
    /// The scoring operation.
    pub op: &'a [u8],
    /// Milliseconds that the lookup, or this prompt's share of the computation, took.
    pub wall_ms: f64,
    /// Whether the value was there.
    pub hit: bool,
    /// Whether another thread computed the value while this one waited.
    pub waited: bool,
    /// The digest of the whole key, where it is known.
    pub key: Option<&'a KeyDigest>,
    /// The type of the exception that the computation raised.
    pub error: Option<&'a [u8]>,
}

impl Event<'_> {
    /// Appends the event as one line of JSON, its newline included.
    pub fn append_to(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"ts\": ");
        json::float(line, self.ts);
        line.extend_from_slice(b", \"probe\": ");
        match self.probe {
            Some(probe) => json::string(line, probe),
            None => line.extend_from_slice(b"null"),
        }
        line.extend_from_slice(b", \"view_id\": ");
        json::string(line, self.view_id);
        line.extend_from_slice(b", \"prompt_hash\": ");
        json::string(line, self.prompt_hash);
        line.extend_from_slice(b", \"top_k\": ");
        json::integer(line, self.top_k);
        line.extend_from_slice(b", \"op\": ");
        json::string(line, self.op);
        line.extend_from_slice(b", \"wall_ms\": ");
        json::float(line, self.wall_ms);
        line.extend_from_slice(b", \"hit\": ");
        line.extend_from_slice(if self.hit { b"true" } else { b"false" });
        self.append_further_fields(line);
        line.extend_from_slice(b"}\n");
    }

    fn append_further_fields(&self, line: &mut Vec<u8>) {
        if let Some(key) = self.key {
            line.extend_from_slice(b", \"key\": ");
            json::string(line, key);
        }
        if self.waited {
            line.extend_from_slice(b", \"waited\": true");
        }
        if let Some(error) = self.error {
            line.extend_from_slice(b", \"error\": ");
            json::string(line, error);
        }
    }
}

#[cfg(test)]
pub(crate) fn example() -> Event<'static> {
    Event {
        ts: 1_700_000_000.5,
        probe: None,
        view_id: b"base",
        prompt_hash: b"a9993e364706",
        top_k: Some(8),
        op: b"next_token_dist",
        wall_ms: 0.25,
        hit: true,
        waited: false,
        key: None,
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &Event<'_>) -> String {
        let mut line = Vec::new();
        event.append_to(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_has_the_eight_fields_in_order() {
        let expected = concat!(
            r#"{"ts": 1700000000.5, "probe": null, "view_id": "base", "#,
            r#""prompt_hash": "a9993e364706", "top_k": 8, "op": "next_token_dist", "#,
            r#""wall_ms": 0.25, "hit": true}"#,
            "\n"
        );
        assert_eq!(line(&example()), expected);
    }

    #[test]
    fn further_fields_follow_the_eight() {
        let event =
            Event { key: Some(b"0123456789abcdef"), error: Some(b"ValueError"), ..example() };
        let end = "\"hit\": true, \"key\": \"0123456789abcdef\", \"error\": \"ValueError\"}\n";
        assert!(line(&event).ends_with(end));
    }
}

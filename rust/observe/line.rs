//! One line of a trace as its writer writes it, read at the speed of a memory scan.
//!
//! Only the plain form is read here: an object without nesting, names from the table and each once,
//! values of the table's types, strings without escapes. Whatever else a line may hold (another
//! writer's fields, an escape, a count of lost events, damage) is answered with `None`, and the
//! slower reader that judges every case looks at it. So the two never disagree: this one only says
//! "event" where nothing is left to judge.

/// Names of the fields, the first eight of which every event has.
pub const NAMES: [&str; 18] = [
    "ts",
    "probe",
    "view_id",
    "prompt_hash",
    "top_k",
    "op",
    "wall_ms",
    "hit",
    "run",
    "thread",
    "seq",
    "key",
    "batch",
    "batch_size",
    "batch_wall_ms",
    "bytes",
    "error",
    "waited",
];

const REQUIRED: usize = 8;
/// So many decimal digits fit an `i64` without a further look.
const MAX_DIGITS: usize = 18;

/// What a field holds. Times that stand there as null are NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`, where the table allows it.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A finite number, or NaN for null.
    Float(f64),
    /// Text without escapes.
    Text(&'a str),
}

/// The values of one line, by their index in [`NAMES`].
pub type Fields<'a> = [Option<Value<'a>>; NAMES.len()];

/// The fields of an event in its plain form; `None` if somebody else has to look.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Fields<'_>> {
    let mut rest = Rest(line);
    let mut fields = [None; NAMES.len()];
    let mut expected = 0;
    rest.expect(b'{')?;
    loop {
        let index = rest.name(expected)?;
        rest.expect(b':')?;
        let value = fitting(index, rest.value()?)?;
        if fields[index].replace(value).is_some() {
            return None;
        }
        expected = index + 1;
        match rest.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    rest.skip_blanks();
    let whole = rest.0.is_empty() && fields[..REQUIRED].iter().all(Option::is_some);
    whole.then_some(fields)
}

fn index_of(name: &[u8]) -> Option<usize> {
    NAMES.iter().position(|known| known.as_bytes() == name)
}

/// The value as the table's type of the field at `index`.
fn fitting(index: usize, value: Value<'_>) -> Option<Value<'_>> {
    match (NAMES[index], value) {
        ("ts" | "wall_ms", Value::Null) => Some(Value::Float(f64::NAN)),
        ("ts" | "wall_ms" | "batch_wall_ms", Value::Float(_)) => Some(value),
        // Integers of so few digits are floats without rounding.
        #[allow(clippy::cast_precision_loss)]
        ("ts" | "wall_ms" | "batch_wall_ms", Value::Int(n)) if n.unsigned_abs() < 1 << 53 => {
            Some(Value::Float(n as f64))
        }
        ("probe" | "top_k", Value::Null)
        | ("probe" | "view_id" | "prompt_hash" | "op" | "run" | "key" | "error", Value::Text(_))
        | ("top_k" | "thread" | "seq" | "batch" | "batch_size" | "bytes", Value::Int(_))
        | ("hit" | "waited", Value::Bool(_)) => Some(value),
        _ => None,
    }
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t' | b'\r', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn next(&mut self) -> Option<u8> {
        self.skip_blanks();
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// Reads a name; its index in the table. Writers keep the table's order, so it is first looked
    /// for behind the field before, without looking for its end.
    fn name(&mut self, expected: usize) -> Option<usize> {
        self.skip_blanks();
        let quoted = self.0.strip_prefix(b"\"")?;
        for (at, known) in NAMES.iter().enumerate().skip(expected) {
            let rest = quoted.strip_prefix(known.as_bytes());
            if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(b"\"")) {
                self.0 = rest;
                return Some(at);
            }
        }
        index_of(self.raw_text()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.raw_text()?).ok()
    }

    fn raw_text(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let end = self.0.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        self.skip_blanks();
        match self.0.first()? {
            b'"' => Some(Value::Text(self.text()?)),
            b'n' => self.word(b"null", Value::Null),
            b't' => self.word(b"true", Value::Bool(true)),
            b'f' => self.word(b"false", Value::Bool(false)),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &[u8], value: Value<'a>) -> Option<Value<'a>> {
        self.0 = self.0.strip_prefix(word)?;
        Some(value)
    }

    /// A number by JSON's grammar: no leading zero, no bare point, no plus sign.
    fn number(&mut self) -> Option<Value<'a>> {
        let all = self.0;
        self.0 = self.0.strip_prefix(b"-").unwrap_or(self.0);
        let leads_with_zero = self.0.first() == Some(&b'0');
        let digits = self.digits()?;
        if leads_with_zero && digits > 1 {
            return None;
        }
        let is_integer = !self.fraction_and_exponent()?;
        let text = std::str::from_utf8(&all[..all.len() - self.0.len()]).ok()?;
        if is_integer {
            return if digits > MAX_DIGITS { None } else { Some(Value::Int(text.parse().ok()?)) };
        }
        let number: f64 = text.parse().ok()?;
        number.is_finite().then_some(Value::Float(number))
    }

    /// Reads both, if there; whether one was.
    fn fraction_and_exponent(&mut self) -> Option<bool> {
        let mut found = false;
        if let Some(rest) = self.0.strip_prefix(b".") {
            (self.0, found) = (rest, true);
            self.digits()?;
        }
        if let [b'e' | b'E', rest @ ..] = self.0 {
            (self.0, found) = (rest, true);
            if let [b'+' | b'-', rest @ ..] = self.0 {
                self.0 = rest;
            }
            self.digits()?;
        }
        Some(found)
    }

    /// Reads at least one digit; how many.
    fn digits(&mut self) -> Option<usize> {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.0 = &self.0[count..];
        (count > 0).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIGHT: &str = r#""ts": 1.5, "probe": null, "view_id": "ft", "prompt_hash": "h", "top_k": 8, "op": "o", "wall_ms": null, "hit": true"#;

    fn with(further: &str) -> String {
        format!("{{{EIGHT}{further}}}")
    }

    #[test]
    fn a_plain_line_is_read() {
        let line = with(r#", "run": "ab", "seq": 7, "batch_wall_ms": 3"#);
        let fields = parse(line.as_bytes()).expect("plain");
        assert_eq!(fields[0], Some(Value::Float(1.5)));
        assert_eq!(fields[1], Some(Value::Null));
        assert_eq!(fields[8], Some(Value::Text("ab")));
        assert_eq!(fields[14], Some(Value::Float(3.0)));
        assert!(matches!(fields[6], Some(Value::Float(ms)) if ms.is_nan()));
        assert_eq!(fields[9], None);
    }

    #[test]
    fn what_has_to_be_judged_is_left_to_the_other_reader() {
        let odd = [
            r#", "ts": 1"#,
            r#", "lost": 3"#,
            r#", "run": "\u0041""#,
            r#", "run": 1"#,
            r#", "seq": 01"#,
            r#", "seq": 1e2"#,
            r#", "seq": 1234567890123456789"#,
            r#", "batch_wall_ms": 1e999"#,
            r#", "batch_wall_ms": 1."#,
            ", \"run\": \"\u{1}\"",
            ",",
            "}",
        ];
        for further in odd {
            assert_eq!(parse(with(further).as_bytes()), None, "{further}");
        }
        assert_eq!(parse(b"{}"), None);
        assert_eq!(parse(b"{\"ts\": 1}"), None);
    }
}

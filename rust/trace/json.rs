//! The few JSON forms a trace line needs, as Python's `json.dumps` writes them.

use std::io::Write as _;

/// A string: ASCII alone, everything else as `\uXXXX`. `text` is generalized UTF-8.
pub(super) fn string(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    let mut rest = text;
    while let Some(&first) = rest.first() {
        if is_plain(first) {
            let plain = rest.iter().position(|&byte| !is_plain(byte)).unwrap_or(rest.len());
            line.extend_from_slice(&rest[..plain]);
            rest = &rest[plain..];
        } else {
            let (code_point, length) = decode(rest);
            escape(line, code_point);
            rest = &rest[length..];
        }
    }
    line.push(b'"');
}

/// A number, or null where JSON has none (NaN, infinities).
pub(super) fn float(line: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        line.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        line.extend_from_slice(b"null");
    }
}

/// An integer.
pub(super) fn integer(line: &mut Vec<u8>, value: impl itoa::Integer) {
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Whether a character stands in a JSON string as itself.
pub(super) fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// The first code point, a lone surrogate included, and its length in bytes.
fn decode(text: &[u8]) -> (u32, usize) {
    let length = match text[0] {
        ..=0x7F => return (u32::from(text[0]), 1),
        0x80..=0xDF => 2,
        0xE0..=0xEF => 3,
        _ => 4,
    };
    let lead = u32::from(text[0]) & (0x7F >> length);
    let tail = text.iter().take(length).skip(1);
    let code_point = tail.fold(lead, |point, &byte| point << 6 | u32::from(byte & 0x3F));
    (code_point, length.min(text.len()))
}

fn escape(line: &mut Vec<u8>, code_point: u32) {
    let short = match code_point {
        0x08 => b'b',
        0x09 => b't',
        0x0A => b'n',
        0x0C => b'f',
        0x0D => b'r',
        0x22 => b'"',
        0x5C => b'\\',
        _ => return escape_units(line, code_point),
    };
    line.extend_from_slice(&[b'\\', short]);
}

fn escape_units(line: &mut Vec<u8>, code_point: u32) {
    let mut unit = |unit: u32| write!(line, "\\u{unit:04x}").expect("a Vec takes every write");
    if code_point < 0x1_0000 {
        unit(code_point);
    } else {
        unit(0xD800 + ((code_point - 0x1_0000) >> 10));
        unit(0xDC00 + (code_point & 0x3FF));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &[u8]) -> String {
        let mut line = Vec::new();
        string(&mut line, text);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn escapes_are_those_of_json_dumps() {
        let text = "\u{8}\t\n\u{c}\r\"\\/\u{0}\u{7f}é😀";
        let expected = r#""\b\t\n\f\r\"\\/\u0000\u007f\u00e9\ud83d\ude00""#;
        assert_eq!(written(text.as_bytes()), expected);
    }

    #[test]
    fn a_lone_surrogate_is_written_as_itself() {
        assert_eq!(written(b"a\xed\xa0\x80b"), r#""a\ud800b""#);
    }

    #[test]
    fn what_json_has_no_number_for_is_null() {
        let mut line = Vec::new();
        [f64::NAN, f64::INFINITY, 0.5].into_iter().for_each(|value| float(&mut line, value));
        assert_eq!(line, b"nullnull0.5");
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_by_a_json_parser(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&written(text.as_bytes())).unwrap(), text);
        }

        #[test]
        fn any_bytes_give_ascii_and_no_panic(text in any::<Vec<u8>>()) {
            prop_assert!(written(&text).is_ascii());
        }

        #[test]
        fn any_finite_number_is_read_back(value in any::<f64>()) {
            let mut line = Vec::new();
            float(&mut line, value);
            let back = serde_json::from_slice::<Option<f64>>(&line).unwrap();
            prop_assert_eq!(back, value.is_finite().then_some(value));
        }
    }
}

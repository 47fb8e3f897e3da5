//! The texts that events share: views, ops, probes, exception types.
//!
//! A journal's events hold numbers for them. A text gets its number, and is written down, before
//! the first event that uses it. Names live as long as their writer; one takes its text twice and
//! about 100 bytes.

use super::json;
use std::collections::HashMap;
use std::sync::Arc;

/// The number of a text within one run, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameId(u32);

impl NameId {
    /// The number as a word's half, where 0 stands for no text.
    #[must_use]
    pub fn number(id: Option<Self>) -> u32 {
        id.map_or(0, |id| id.0)
    }

    /// The text with this number, if there is one.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }
}

/// Texts by number, as JSON strings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonNames(Vec<Arc<[u8]>>);

impl JsonNames {
    /// The text as a JSON string with its quotes; None if there is no such number.
    #[must_use]
    pub fn get(&self, id: NameId) -> Option<&[u8]> {
        self.0.get(id.0 as usize - 1).map(|name| &**name)
    }

    /// Adds the text with the next number.
    pub fn push(&mut self, text: &[u8]) -> NameId {
        let mut quoted = Vec::with_capacity(text.len() + 2);
        json::string(&mut quoted, text);
        self.0.push(quoted.into());
        NameId(u32::try_from(self.0.len()).expect("fewer than 2^32 texts fit into memory"))
    }

    /// Takes over what `other`, which began as this, has more.
    pub fn catch_up(&mut self, other: &Self) {
        self.0.extend(other.0[self.0.len()..].iter().cloned());
    }

    /// Texts held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the longest text, quoted; 0 without one.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.0.iter().map(|name| name.len()).max().unwrap_or(0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Numbers by text.
#[derive(Debug, Default)]
pub struct Names {
    ids: HashMap<Box<[u8]>, NameId>,
    json: JsonNames,
}

impl Names {
    /// The number of `text`, if it has one.
    #[must_use]
    pub fn find(&self, text: &[u8]) -> Option<NameId> {
        self.ids.get(text).copied()
    }

    /// Gives `text`, which has none, the next number.
    pub fn add(&mut self, text: &[u8]) -> NameId {
        let id = self.json.push(text);
        self.ids.insert(text.into(), id);
        id
    }

    /// All texts, by number.
    #[must_use]
    pub fn json(&self) -> &JsonNames {
        &self.json
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_and_is_found_by_it() {
        let mut names = Names::default();
        assert_eq!(names.find(b"base"), None);
        let (base, ft) = (names.add(b"base"), names.add("f\"ü".as_bytes()));
        assert_eq!((names.find(b"base"), names.json().len()), (Some(base), 2));
        assert_eq!(names.json().get(base), Some(&b"\"base\""[..]));
        assert_eq!(names.json().get(ft), Some(&br#""f\"\u00fc""#[..]));
        assert_eq!(names.json().get(NameId(3)), None);
    }

    #[test]
    fn a_copy_catches_up() {
        let mut names = Names::default();
        names.add(b"base");
        let mut copy = names.json().clone();
        let later = names.add(b"ft");
        assert_eq!(copy.get(later), None);
        copy.catch_up(names.json());
        assert_eq!(copy.get(later), Some(&b"\"ft\""[..]));
    }
}

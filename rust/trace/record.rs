//! One event, and the words of a journal that hold it.

use super::brief;
use super::json;
use super::name::{JsonNames, NameId};
use crate::key::{HashPrefix, PREFIX_DIGITS};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Words of a slot: the ring's own, a checksum, and what a [`Record`] holds.
pub const WORDS: usize = 16;

/// A slot.
pub type Words = [u64; WORDS];

/// The op of the line that says how many events were lost before it.
pub const LOSS_OP: &[u8] = b"trace_lost";

/// Bytes of a prompt hash that stand in the slot itself.
pub(super) const INLINE_HASH: usize = 15;

/// What the trace calls a prompt: the field `prompt_hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptHash {
    /// Up to 15 printable ASCII characters that JSON doesn't escape, little endian, and how many of
    /// them in the highest byte.
    Inline(u128),
    /// Anything else.
    Name(NameId),
}

impl PromptHash {
    /// `text` as it stands, if it fits.
    #[must_use]
    pub fn inline(text: &[u8]) -> Option<Self> {
        let fits = text.len() <= INLINE_HASH && text.iter().all(|&byte| json::is_plain(byte));
        fits.then(|| {
            let mut bytes = [0; 16];
            bytes[..text.len()].copy_from_slice(text);
            bytes[INLINE_HASH] = text.len() as u8;
            Self::Inline(u128::from_le_bytes(bytes))
        })
    }

    /// The text, if it has as many characters as a hash prefix.
    #[must_use]
    pub fn as_hex(self) -> Option<HashPrefix> {
        let Self::Inline(text) = self else {
            return None;
        };
        let bytes = text.to_le_bytes();
        let is_one = usize::from(bytes[INLINE_HASH]) == PREFIX_DIGITS;
        bytes.first_chunk().copied().filter(|_| is_one)
    }

    /// The hash prefix of a key, in hex digits.
    #[inline]
    #[must_use]
    pub fn hex(prefix: HashPrefix) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = prefix;
        let low = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let high = u32::from_le_bytes([i, j, k, l]);
        let length = (prefix.len() as u128) << (8 * INLINE_HASH);
        Self::Inline(u128::from(low) | u128::from(high) << 64 | length)
    }
}

/// The number of tokens asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// It was no integer.
    None,
    /// An integer of 64 bits.
    Integer(i64),
    /// A longer one, by its decimal digits.
    Digits(NameId),
}

/// What the events of one batch share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Number of the batch within the run.
    pub id: u64,
    /// Prompts that shared `wall_ms`.
    pub size: u32,
    /// Milliseconds of the lookup or the computation that they shared.
    pub wall_ms: f64,
}

/// One prompt of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Seconds since the epoch.
    pub ts: f64,
    /// Who asked, if anybody said so.
    pub probe: Option<NameId>,
    /// The view, as it is called in the trace.
    pub view_id: Option<NameId>,
    /// The field `prompt_hash`.
    pub prompt_hash: PromptHash,
    /// The number of tokens asked for.
    pub top_k: TopK,
    /// The scoring operation.
    pub op: Option<NameId>,
    /// Milliseconds that the lookup, or this prompt's share of the computation, took.
    pub wall_ms: f64,
    /// Whether the value was there.
    pub hit: bool,
    /// The thread's number within its process.
    pub thread: u32,
    /// The digest of the whole key, where it is known.
    pub key: Option<u64>,
    /// The batch, if it was one.
    pub batch: Option<Batch>,
    /// Bytes that the value was counted with when it was stored.
    pub bytes: Option<u64>,
    /// The type of the exception that the computation raised.
    pub error: Option<NameId>,
    /// Whether another thread computed the value while this one waited.
    pub waited: bool,
    /// Events that were lost before this one; only in the line that says so.
    pub lost: Option<u64>,
}

const HIT: u32 = 1;
const WAITED: u32 = 1 << 1;
const KEY: u32 = 1 << 2;
const BATCH: u32 = 1 << 3;
const BYTES: u32 = 1 << 4;
const LOST: u32 = 1 << 5;
const TOP_K_INTEGER: u32 = 1 << 6;
const TOP_K_DIGITS: u32 = 1 << 7;
const PROMPT_HASH_NAME: u32 = 1 << 8;
const ALL: u32 = (1 << 9) - 1;

fn halves(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn low(word: u64) -> u32 {
    word as u32
}

fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

impl Record {
    /// The words of the event at `pos` of a run.
    #[inline]
    #[must_use]
    pub fn to_words(&self, run: u64, pos: u64) -> Words {
        let (top_k, top_k_flag) = match self.top_k {
            TopK::None => (0, 0),
            TopK::Integer(integer) => (integer as u64, TOP_K_INTEGER),
            TopK::Digits(id) => (u64::from(NameId::number(Some(id))), TOP_K_DIGITS),
        };
        let ([hash_low, hash_high], hash_flag) = match self.prompt_hash {
            PromptHash::Inline(text) => ([text as u64, (text >> 64) as u64], 0),
            PromptHash::Name(id) => ([u64::from(NameId::number(Some(id))), 0], PROMPT_HASH_NAME),
        };
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.hit, HIT)
            | flag(self.waited, WAITED)
            | flag(self.key.is_some(), KEY)
            | flag(self.batch.is_some(), BATCH)
            | flag(self.bytes.is_some(), BYTES)
            | flag(self.lost.is_some(), LOST)
            | top_k_flag
            | hash_flag;
        let batch = self.batch.unwrap_or(Batch { id: 0, size: 0, wall_ms: 0.0 });
        let mut words = [
            0,
            0,
            self.ts.to_bits(),
            self.wall_ms.to_bits(),
            top_k,
            halves(NameId::number(self.view_id), NameId::number(self.op)),
            halves(NameId::number(self.probe), NameId::number(self.error)),
            halves(self.thread, flags),
            hash_low,
            hash_high,
            self.key.unwrap_or_default(),
            batch.id,
            u64::from(batch.size),
            batch.wall_ms.to_bits(),
            self.bytes.unwrap_or_default(),
            self.lost.unwrap_or_default(),
        ];
        words[1] = checksum(run, pos, &words);
        words
    }

    /// The event that stands in a slot for `pos`; None if the slot is damaged.
    #[must_use]
    pub fn of_words(run: u64, pos: u64, words: &Words) -> Option<Self> {
        if let Some(half) = words.first_chunk().filter(|half| brief::is_brief(half)) {
            return brief::record_of_half(run, pos, half);
        }
        let flags = high(words[7]);
        if words[1] != checksum(run, pos, words) || flags & !ALL != 0 {
            return None;
        }
        let has = |flag: u32| flags & flag != 0;
        let number = |word: u64| NameId::of_number(low(word));
        Some(Self {
            ts: f64::from_bits(words[2]),
            wall_ms: f64::from_bits(words[3]),
            top_k: match (has(TOP_K_INTEGER), has(TOP_K_DIGITS)) {
                (true, _) => TopK::Integer(words[4] as i64),
                (_, true) => TopK::Digits(number(words[4])?),
                _ => TopK::None,
            },
            view_id: number(words[5]),
            op: NameId::of_number(high(words[5])),
            probe: number(words[6]),
            error: NameId::of_number(high(words[6])),
            thread: low(words[7]),
            hit: has(HIT),
            waited: has(WAITED),
            prompt_hash: if has(PROMPT_HASH_NAME) {
                PromptHash::Name(number(words[8])?)
            } else {
                prompt_hash_of_words([words[8], words[9]])?
            },
            key: has(KEY).then_some(words[10]),
            batch: has(BATCH).then_some(Batch {
                id: words[11],
                size: low(words[12]),
                wall_ms: f64::from_bits(words[13]),
            }),
            bytes: has(BYTES).then_some(words[14]),
            lost: has(LOST).then_some(words[15]),
        })
    }

    /// Whether every name of the event is among `names`.
    #[must_use]
    pub fn is_named_in(&self, names: &JsonNames) -> bool {
        let prompt_hash = match self.prompt_hash {
            PromptHash::Name(id) => Some(id),
            PromptHash::Inline(_) => None,
        };
        let top_k = match self.top_k {
            TopK::Digits(id) => Some(id),
            TopK::Integer(_) | TopK::None => None,
        };
        let used = [self.probe, self.view_id, self.op, self.error, prompt_hash, top_k];
        used.into_iter().flatten().all(|id| names.get(id).is_some())
    }
}

fn prompt_hash_of_words([low, high]: [u64; 2]) -> Option<PromptHash> {
    let both = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    let text = both.get(..usize::from(both[INLINE_HASH]).min(INLINE_HASH))?;
    PromptHash::inline(text)
}

/// Over run, position and payload, so that neither another run's slot nor another lap's passes.
#[inline]
fn checksum(run: u64, pos: u64, words: &Words) -> u64 {
    let mut bytes = [0; (WORDS - 2) * 8];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(&words[2..]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, run ^ pos.rotate_left(32))
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::trace) fn example(names: &mut JsonNames) -> Record {
        Record {
            ts: 1_700_000_000.5,
            probe: None,
            view_id: Some(names.push(b"base")),
            prompt_hash: PromptHash::inline(b"a9993e364706").unwrap(),
            top_k: TopK::Integer(8),
            op: Some(names.push(b"next_token_dist")),
            wall_ms: 0.25,
            hit: true,
            thread: 3,
            key: None,
            batch: None,
            bytes: None,
            error: None,
            waited: false,
            lost: None,
        }
    }

    #[test]
    fn a_hex_prompt_hash_is_the_text_inline() {
        assert_eq!(PromptHash::hex(*b"a9993e364706"), PromptHash::inline(b"a9993e364706").unwrap());
    }

    pub(in crate::trace) fn records() -> impl Strategy<Value = Record> {
        let id =
            || prop::option::of((1..9_u32).prop_map(|number| NameId::of_number(number).unwrap()));
        let top_k = prop_oneof![
            Just(TopK::None),
            any::<i64>().prop_map(TopK::Integer),
            (1..9_u32).prop_map(|number| TopK::Digits(NameId::of_number(number).unwrap())),
        ];
        let prompt_hash = prop_oneof![
            "[a-z0-9]{0,15}".prop_map(|text| PromptHash::inline(text.as_bytes()).unwrap()),
            (1..9_u32).prop_map(|number| PromptHash::Name(NameId::of_number(number).unwrap())),
        ];
        let batch = prop::option::of((any::<u64>(), any::<u32>(), 0.0..1e9));
        let batch =
            batch.prop_map(|some| some.map(|(id, size, wall_ms)| Batch { id, size, wall_ms }));
        let numbers =
            (prop::option::of(any::<u64>()), prop::option::of(any::<u64>()), any::<u32>());
        let flags = (any::<bool>(), any::<bool>(), prop::option::of(any::<u64>()));
        (id(), id(), id(), id(), top_k, prompt_hash, batch, numbers, flags, (0.0..2e9, 0.0..1e6))
            .prop_map(
                |(
                    probe,
                    view_id,
                    op,
                    error,
                    top_k,
                    prompt_hash,
                    batch,
                    (key, bytes, thread),
                    flags,
                    times,
                )| {
                    let ((hit, waited, lost), (ts, wall_ms)) = (flags, times);
                    Record {
                        ts,
                        probe,
                        view_id,
                        prompt_hash,
                        top_k,
                        op,
                        wall_ms,
                        hit,
                        thread,
                        key,
                        batch,
                        bytes,
                        error,
                        waited,
                        lost,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn words_give_the_event_back(record in records(), run: u64, pos in 0..1_u64 << 62) {
            let words = record.to_words(run, pos);
            prop_assert_eq!(Record::of_words(run, pos, &words), Some(record));
        }

        #[test]
        fn a_changed_word_is_seen(
            record in records(), run: u64, pos in 0..1_u64 << 62,
            word in 1..WORDS, bit in 0..64_u32,
        ) {
            let mut words = record.to_words(run, pos);
            words[word] ^= 1 << bit;
            prop_assert_eq!(Record::of_words(run, pos, &words), None);
            prop_assert_eq!(Record::of_words(run, pos + 1, &record.to_words(run, pos)), None);
        }
    }
}

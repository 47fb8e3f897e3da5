//! A hit in half a slot: what nearly every event is, in one line of a processor's cache.
//!
//! Each event goes through two processors' caches, that of the thread that made it and that of the
//! drainer. A hit of a single call whose numbers are small fits into the first eight words of its
//! slot, and neither of the two touches the others, which may hold part of an older event.
//!
//! ```text
//! position + 1 │ checksum │ ts │ wall │ key │ hash 0..8 │ hash 8..12, view 20 bits, op 12 │
//! thread 16, probe 16, flags 10, top_k 22
//! ```

use super::name::NameId;
use super::record::{PromptHash, Record, TopK};
use crate::key::{HashPrefix, PREFIX_DIGITS};

/// Words of a slot that a brief event takes.
pub const BRIEF: usize = 8;

/// The first half of a slot.
pub type Half = [u64; BRIEF];

const HALF: u32 = u32::BITS;
const FLAGS: u32 = 10;
/// The only flag of a brief event; a whole one has it never.
const IS_BRIEF: u64 = 1 << 9;
const VIEW: u32 = 20;
const OP: u32 = HALF - VIEW;
const THREAD: u32 = 16;
const PROBE: u32 = HALF - THREAD;
const TOP_K: u32 = HALF - FLAGS;

/// The beginning of XXH3's secret.
const SECRETS: [[u64; 2]; 3] = [
    [0xBE4B_A423_396C_FEB8, 0x1CAD_21F7_2C81_017C],
    [0xDB97_9083_E96D_D4DE, 0x1F67_B3B7_A4A4_4072],
    [0x78E5_C0CC_4EE6_79CB, 0x2172_FFCC_7DD0_5A82],
];

/// Spreads a position over all bits, so that those of two positions differ in about half of them.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A hit of a single call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brief {
    /// Seconds since the epoch.
    pub ts: f64,
    /// Milliseconds that the lookup took.
    pub wall_ms: f64,
    /// The digest of the whole key.
    pub key: u64,
    /// The field `prompt_hash`.
    pub hash_prefix: HashPrefix,
    /// Whose hit it is.
    pub caller: Caller,
}

/// What all hits of one caller share, as it stands in their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    view_and_op: u64,
    others: u64,
}

impl Caller {
    /// The caller with these names; None if a number takes more bits than there are for it.
    #[must_use]
    pub fn of(
        probe: Option<NameId>,
        view_id: Option<NameId>,
        op: Option<NameId>,
        top_k: TopK,
    ) -> Option<Self> {
        let TopK::Integer(top_k) = top_k else {
            return None;
        };
        let view_id = fits(NameId::number(view_id).into(), VIEW)?;
        let op = fits(NameId::number(op).into(), OP)?;
        let probe = fits(NameId::number(probe).into(), PROBE)?;
        let top_k = fits(u64::try_from(top_k).ok()?, TOP_K)?;
        Some(Self {
            view_and_op: (view_id | op << VIEW) << HALF,
            others: probe << THREAD | (IS_BRIEF | top_k << FLAGS) << HALF,
        })
    }

    /// The caller as its thread `number`; None if that takes too many bits.
    #[inline]
    #[must_use]
    pub fn in_thread(self, number: u32) -> Option<Self> {
        let thread = fits(number.into(), THREAD)?;
        Some(Self { others: self.others | thread, ..self })
    }
}

#[inline]
fn fits(number: u64, bits: u32) -> Option<u64> {
    (number < 1 << bits).then_some(number)
}

fn bits(word: u64, from: u32, count: u32) -> u32 {
    (word >> from) as u32 & (u32::MAX >> (HALF - count))
}

impl Brief {
    /// `record` in brief, if it is a hit of a single call with small numbers.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let Record { ts, wall_ms, hit: true, waited: false, key: Some(key), .. } = *record else {
            return None;
        };
        let further = record.batch.is_some() | record.bytes.is_some() | record.lost.is_some();
        if further || record.error.is_some() {
            return None;
        }
        let hash_prefix = record.prompt_hash.as_hex()?;
        let caller = Caller::of(record.probe, record.view_id, record.op, record.top_k)?;
        Some(Self { ts, wall_ms, key, hash_prefix, caller: caller.in_thread(record.thread)? })
    }

    /// What the event says; None if the hash is no text that a trace writes as it stands.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        let Caller { view_and_op, others } = self.caller;
        let name = |word, from, count| NameId::of_number(bits(word, from, count));
        Some(Record {
            ts: self.ts,
            probe: name(others, THREAD, PROBE),
            view_id: name(view_and_op, HALF, VIEW),
            prompt_hash: PromptHash::inline(&self.hash_prefix)?,
            top_k: TopK::Integer(bits(others, HALF + FLAGS, TOP_K).into()),
            op: name(view_and_op, HALF + VIEW, OP),
            wall_ms: self.wall_ms,
            hit: true,
            thread: bits(others, 0, THREAD),
            key: Some(self.key),
            batch: None,
            bytes: None,
            error: None,
            waited: false,
            lost: None,
        })
    }
    /// What the checksum says of everything but the position, so that it can be had before that.
    #[inline]
    #[must_use]
    pub fn sum(&self, run: u64) -> u64 {
        sum_of(run, &self.payload())
    }

    /// The words of the event at `pos`; `sum` is [`Brief::sum`].
    #[inline]
    #[must_use]
    pub fn to_words(&self, sum: u64, pos: u64) -> Half {
        let [ts, wall, key, hash, hash_and_names, others] = self.payload();
        [0, checksum(sum, pos), ts, wall, key, hash, hash_and_names, others]
    }

    #[inline]
    fn payload(&self) -> [u64; BRIEF - 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.hash_prefix;
        [
            self.ts.to_bits(),
            self.wall_ms.to_bits(),
            self.key,
            u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            u64::from(u32::from_le_bytes([i, j, k, l])) | self.caller.view_and_op,
            self.caller.others,
        ]
    }
}

/// Whether the first half of a slot is all of its event.
#[inline]
#[must_use]
pub fn is_brief(half: &Half) -> bool {
    half[BRIEF - 1] >> HALF & IS_BRIEF != 0
}

/// The event that stands in brief in a slot for `pos`; None if the slot is damaged.
#[must_use]
pub fn record_of_half(run: u64, pos: u64, half: &Half) -> Option<Record> {
    let [_, sum, payload @ ..] = *half;
    let [ts, wall_ms, key, hash, hash_and_names, others] = payload;
    let flags = bits(others, HALF, FLAGS);
    if sum != checksum(sum_of(run, &payload), pos) || u64::from(flags) != IS_BRIEF {
        return None;
    }
    let mut hash_prefix = [0; PREFIX_DIGITS];
    let (first, rest) = hash_prefix.split_at_mut(8);
    first.copy_from_slice(&hash.to_le_bytes());
    rest.copy_from_slice(&(hash_and_names as u32).to_le_bytes());
    let caller = Caller { view_and_op: hash_and_names >> HALF << HALF, others };
    let (ts, wall_ms) = (f64::from_bits(ts), f64::from_bits(wall_ms));
    Brief { ts, wall_ms, key, hash_prefix, caller }.record()
}

/// Three products of 128 bits, as XXH3 takes them of short inputs, and the same end.
#[inline]
fn sum_of(run: u64, payload: &[u64; BRIEF - 2]) -> u64 {
    let [ts, wall, key, hash, hash_and_names, others] = *payload;
    let pair = |one: u64, other: u64, [a, b]: [u64; 2]| {
        folded(one ^ a.wrapping_add(run), other ^ b.wrapping_sub(run))
    };
    let sum = pair(ts, wall, SECRETS[0])
        .wrapping_add(pair(key, hash, SECRETS[1]))
        .wrapping_add(pair(hash_and_names, others, SECRETS[2]));
    let mixed = (sum ^ sum >> 37).wrapping_mul(0x1656_6791_9E37_79F9);
    mixed ^ mixed >> 32
}

#[inline]
fn folded(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

/// Over run, position and payload, as that of a whole slot.
#[inline]
fn checksum(sum: u64, pos: u64) -> u64 {
    sum ^ pos.wrapping_mul(SPREAD)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::name::JsonNames;
    use super::super::record::tests::{example, records};
    use super::super::record::{Batch, WORDS};
    use super::*;
    use proptest::prelude::*;

    fn hit() -> Record {
        Record { key: Some(7), ..example(&mut JsonNames::default()) }
    }

    fn read_back(record: &Record, run: u64, pos: u64) -> Option<Record> {
        let brief = Brief::of(record)?;
        let words = brief.to_words(brief.sum(run), pos);
        assert!(is_brief(&words));
        record_of_half(run, pos, &words)
    }

    #[test]
    fn a_hit_is_brief_and_read_back() {
        assert_eq!(read_back(&hit(), 1, 2), Some(hit()));
    }

    #[test]
    fn the_largest_numbers_that_fit_are_kept_and_larger_ones_are_not_brief() {
        let id = |bits: u32| NameId::of_number((1 << bits) - 1);
        let full = Record {
            probe: id(PROBE),
            view_id: id(VIEW),
            op: id(OP),
            top_k: TopK::Integer((1 << TOP_K) - 1),
            thread: (1 << THREAD) - 1,
            ..hit()
        };
        assert_eq!(read_back(&full, 1, 2), Some(full));
        let more = |bits: u32| NameId::of_number(1 << bits);
        for record in [
            Record { probe: more(PROBE), ..full },
            Record { view_id: more(VIEW), ..full },
            Record { op: more(OP), ..full },
            Record { top_k: TopK::Integer(1 << TOP_K), ..full },
            Record { top_k: TopK::Integer(-1), ..full },
            Record { thread: 1 << THREAD, ..full },
        ] {
            assert_eq!(Brief::of(&record), None);
        }
    }

    #[test]
    fn what_says_more_than_a_hit_is_not_brief() {
        for record in [
            Record { hit: false, ..hit() },
            Record { waited: true, ..hit() },
            Record { key: None, ..hit() },
            Record { batch: Some(Batch { id: 0, size: 1, wall_ms: 0.5 }), ..hit() },
            Record { bytes: Some(0), ..hit() },
            Record { error: NameId::of_number(1), ..hit() },
            Record { lost: Some(0), ..hit() },
            Record { top_k: TopK::None, ..hit() },
            Record { top_k: TopK::Digits(NameId::of_number(1).unwrap()), ..hit() },
            Record { prompt_hash: PromptHash::inline(b"a9993e36470").unwrap(), ..hit() },
            Record { prompt_hash: PromptHash::inline(b"a9993e3647061").unwrap(), ..hit() },
            Record { prompt_hash: PromptHash::Name(NameId::of_number(1).unwrap()), ..hit() },
        ] {
            assert_eq!(Brief::of(&record), None, "{record:?}");
        }
    }

    proptest! {
        #[test]
        fn a_record_in_brief_is_the_record(record in records(), key: u64, run: u64, pos in 0..1_u64 << 62) {
            let prompt_hash = hit().prompt_hash;
            let (batch, bytes, error, lost) = (None, None, None, None);
            let (key, hit, waited, thread) = (Some(key), true, false, record.thread & 0xFFFF);
            let top_k = TopK::Integer((key.unwrap() & 0xFFFF) as i64);
            let record = Record {
                prompt_hash, batch, bytes, error, lost, key, hit, waited, thread, top_k, ..record
            };
            prop_assert_eq!(read_back(&record, run, pos), Some(record));
        }

        #[test]
        fn a_changed_bit_of_a_half_is_seen(
            key: u64, run: u64, pos in 0..1_u64 << 62, word in 1..BRIEF, bit in 0..64_u32,
        ) {
            let brief = Brief::of(&Record { key: Some(key), ..hit() }).unwrap();
            let mut words = brief.to_words(brief.sum(run), pos);
            prop_assert_eq!(record_of_half(run, pos + 1, &words), None);
            prop_assert_eq!(record_of_half(run ^ 1, pos, &words), None);
            words[word] ^= 1 << bit;
            prop_assert_eq!(record_of_half(run, pos, &words), None);
            // Nor does it pass for a whole one.
            let mut slot = [0; WORDS];
            slot[..BRIEF].copy_from_slice(&words);
            prop_assert_eq!(Record::of_words(run, pos, &slot), None);
        }
    }
}

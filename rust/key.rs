//! What a key is called in the trace. Neither the hash prefix nor the digest ever decides about a hit.
//!
//! Text is *generalized UTF-8* here: UTF-8 in which a lone surrogate keeps its three bytes, as
//! Python's `surrogatepass` writes it, since a Python `str` may hold one.

use crate::sync::OnceLock;
use sha1::{Digest, Sha1};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Hex digits of a hash prefix: 12 of SHA-1's 40, as the trace has always had them.
pub const PREFIX_DIGITS: usize = 12;
/// The first 12 hex digits of the SHA-1 of a prompt.
pub type HashPrefix = [u8; PREFIX_DIGITS];

/// What a trace line says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Of the prompt alone.
    pub hash_prefix: HashPrefix,
    /// Of every field of the key, under a key drawn by this process.
    pub digest: u64,
}

/// The fields of a key, as text.
#[derive(Clone, Copy, Debug)]
pub struct KeyText<'a> {
    /// The scoring operation.
    pub op: &'a [u8],
    /// The view, as it is called in the trace.
    pub view_id: &'a [u8],
    /// The prompt's fields: one, or several for a prompt with a completion.
    pub prompt: &'a [&'a [u8]],
    /// Whether the prompt is a tuple, if only of one field.
    pub is_tuple: bool,
    /// The number of tokens asked for; `None` where it was no integer.
    pub top_k: Option<i128>,
    /// Whatever else decides the value.
    pub scope: &'a [u8],
}

/// A secret that goes before the prompt when its hash prefix is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salt {
    bytes: Vec<u8>,
    id: u64,
}

impl Salt {
    /// A salt of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let id = seeded().hash_one(&bytes);
        Self { bytes, id }
    }

    /// Tells salts apart within this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// The hash prefix of a prompt: SHA-1 over the salt, then its fields joined by NUL.
#[must_use]
pub fn hash_prefix(salt: Option<&Salt>, prompt: &[&[u8]]) -> HashPrefix {
    prefix_of(&prompt_sha1(salt, prompt))
}

/// Hash prefix and digest of a key; the prompt is hashed once for both.
#[must_use]
pub fn name(salt: Option<&Salt>, text: &KeyText<'_>) -> Name {
    let sha1 = prompt_sha1(salt, text.prompt);
    Name { hash_prefix: prefix_of(&sha1), digest: digest(text, &sha1) }
}

fn prompt_sha1(salt: Option<&Salt>, prompt: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    if let Some(salt) = salt {
        hasher.update(&salt.bytes);
    }
    for (position, field) in prompt.iter().enumerate() {
        if position > 0 {
            hasher.update([0]);
        }
        hasher.update(field);
    }
    hasher.finalize().into()
}

fn prefix_of(sha1: &[u8; 20]) -> HashPrefix {
    hex(&sha1[..PREFIX_DIGITS / 2])
}

/// One seed per process.
fn seeded() -> &'static RandomState {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    SEED.get_or_init(RandomState::new)
}

/// Keyed, so that nobody can search for the prompt of a published trace by its digest.
///
/// The lengths of the prompt's fields are hashed with its SHA-1, which runs over the joined text:
/// ("a\0b", "c") and ("a", "b\0c") get two digests.
fn digest(text: &KeyText<'_>, sha1: &[u8; 20]) -> u64 {
    let mut hasher = seeded().build_hasher();
    for field in [text.op, text.view_id, text.scope] {
        hasher.write_usize(field.len());
        hasher.write(field);
    }
    hasher.write_u8(u8::from(text.is_tuple));
    hasher.write_usize(text.prompt.len());
    for field in text.prompt {
        hasher.write_usize(field.len());
    }
    hasher.write(sha1);
    hasher.write_u8(u8::from(text.top_k.is_some()));
    hasher.write_i128(text.top_k.unwrap_or_default());
    hasher.finish()
}

/// A digest as the trace writes it.
#[must_use]
pub fn digest_hex(digest: u64) -> [u8; 16] {
    hex(&digest.to_be_bytes())
}

fn hex<const DIGITS: usize>(bytes: &[u8]) -> [u8; DIGITS] {
    const ALPHABET: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|digit| {
        let byte = bytes[digit / 2];
        let nibble = if digit % 2 == 0 { byte >> 4 } else { byte & 15 };
        ALPHABET[usize::from(nibble)]
    })
}

/// The hash of a key, from those of its fields: a sum to which each field adds its share, so that
/// shares can be kept and added in any order.
///
/// The fields' own hashes are seeded by whoever made them (CPython seeds those of `str` and `bytes`,
/// unless it is told not to); the factors here are drawn once per process, so that nobody can choose
/// prompts that collide in one bucket of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares(u64);

impl Shares {
    /// With the field at `position` of the key, whose own hash is `hash`.
    #[inline]
    #[must_use]
    pub fn with(self, position: usize, hash: u64) -> Self {
        let Factors { fields, .. } = factors();
        let factor = match fields.get(position) {
            Some(factor) => *factor,
            None => fields[position % fields.len()].rotate_left((position / fields.len()) as u32),
        };
        // Odd, so that no bit of the field's hash is lost.
        Self(self.0.wrapping_add(hash.wrapping_mul(factor | 1)))
    }

    /// The hash of the whole key, of `fields` fields; `tag` tells kinds of keys apart.
    #[inline]
    #[must_use]
    pub fn hash(self, fields: usize, tag: u64) -> u64 {
        let kind = (fields as u64) << 1 | tag;
        fold_multiply(self.0 ^ kind, factors().last | 1)
    }
}

/// Drawn once per process.
struct Factors {
    fields: [u64; 8],
    last: u64,
}

#[inline]
fn factors() -> &'static Factors {
    static FACTORS: OnceLock<Factors> = OnceLock::new();
    FACTORS.get_or_init(|| Factors {
        fields: std::array::from_fn(|position| seeded().hash_one(position)),
        last: seeded().hash_one(usize::MAX),
    })
}

/// Both halves of a 128-bit product, folded: every input bit reaches every output bit.
#[inline]
fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xA076_1D64_78BD_642F) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(prompt: &[&[u8]], top_k: i128) -> Name {
        name(
            None,
            &KeyText {
                op: b"next_token_dist",
                view_id: b"base",
                prompt,
                is_tuple: prompt.len() > 1,
                top_k: Some(top_k),
                scope: b"",
            },
        )
    }

    #[test]
    fn a_hash_prefix_is_twelve_digits_of_sha1() {
        // FIPS 180 test vector: SHA-1("abc") = a9993e36 4706816a ba3e2571 7850c26c 9cd0d89d.
        assert_eq!(&hash_prefix(None, &[b"abc"]), b"a9993e364706");
        assert_eq!(hash_prefix(None, &[b"a", b"b"]), hash_prefix(None, &[b"a\0b"]));
    }

    #[test]
    fn a_salt_goes_before_the_prompt() {
        let salt = Salt::new(b"a".to_vec());
        assert_eq!(hash_prefix(Some(&salt), &[b"bc"]), hash_prefix(None, &[b"abc"]));
        assert_ne!(salt.id(), Salt::new(b"b".to_vec()).id());
    }

    #[test]
    fn prompts_with_one_hash_prefix_have_two_digests() {
        let (one, other) = (named(&[b"prompt 1 5059353"], 8), named(&[b"prompt 1 8981609"], 8));
        assert_eq!(one.hash_prefix, other.hash_prefix);
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn every_field_of_a_key_is_in_its_digest() {
        let digest = named(&[b"a\0b", b"c"], 8).digest;
        assert_eq!(digest, named(&[b"a\0b", b"c"], 8).digest);
        assert_ne!(digest, named(&[b"a", b"b\0c"], 8).digest);
        assert_ne!(digest, named(&[b"a\0b", b"c"], 9).digest);
    }

    fn hash_of(fields: &[u64], tag: u64) -> u64 {
        let with = |shares: Shares, (position, hash): (usize, &u64)| shares.with(position, *hash);
        fields.iter().enumerate().fold(Shares::default(), with).hash(fields.len(), tag)
    }

    /// How many of a table's 2^16 buckets the hashes of 2^16 keys take whose prompts have these hashes.
    fn buckets(prompt: impl Fn(u64) -> u64) -> usize {
        let hashes = (0..1 << 16).map(|i| hash_of(&[11, 22, prompt(i), 33], 0));
        hashes.map(|hash| hash & 0xFFFF).collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn prompts_whose_hashes_share_bits_do_not_meet_in_a_table() {
        // About 40,000 with most factors; one draw in 10^5 gives fewer than this.
        const LEAST: usize = 128;
        for shift in [0, 7, 16, 20, 32, 48] {
            assert!(buckets(|i| i << shift) > LEAST, "only 16 bits from {shift} on differ");
        }
        assert!(buckets(|i| i.rotate_right(9)) > LEAST, "the top and a few at the bottom");
    }

    #[test]
    fn the_order_and_number_of_fields_change_a_hash() {
        let hash = |fields: &[u64]| hash_of(fields, 0);
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[1]), hash(&[1, 0]));
        assert_ne!(hash(&[]), hash(&[0]));
        assert_ne!(hash_of(&[1], 0), hash_of(&[1], 1));
    }

    #[test]
    fn a_field_counts_at_its_position_however_many_there_are() {
        let long: Vec<u64> = (0..40).collect();
        for one in 0..long.len() {
            let mut other = long.clone();
            other.swap(one, (one + 8) % long.len());
            assert_ne!(hash_of(&long, 0), hash_of(&other, 0), "position {one}");
        }
    }

    #[test]
    fn hashes_that_differ_in_one_bit_spread_over_a_table() {
        for bit in 0..64 {
            let bucket = |hash: u64| hash_of(&[7, 8, hash, 256], 0) & 0xFFFF;
            let met =
                (0..1_000_u64).filter(|n| bucket(n << 13) == bucket(n << 13 ^ 1 << bit)).count();
            assert!(met < 5, "bit {bit}: {met} of 1,000 collide in one of 65,536 buckets");
        }
    }
}

//! The sum of a piece of memory, as numbers of 64 bits, modulo 2⁶⁴.
//!
//! A change of one number that lies on a multiple of its size, of up to 8 bytes, lies in one word and
//! so changes the sum for certain. Changes of several numbers that cancel go unseen.
#![allow(unsafe_code)]

use crate::sync::read_word;

const WORD: usize = size_of::<u64>();
/// Sums that are taken beside each other, since an addition waits for the one before it.
const LANES: usize = 8;

/// The sum over `bytes` bytes from `address` on; those that fill no whole word stand for one with
/// zeros around them.
///
/// Other threads may write there meanwhile: each word is read at once, as it was before or after.
///
/// # Safety
/// All of it is memory that stays mapped, and readable, until the function returns.
#[must_use]
pub unsafe fn sum(address: usize, bytes: usize) -> u64 {
    let end = address + bytes;
    let (first, last) = (address.next_multiple_of(WORD).min(end), end / WORD * WORD);
    // SAFETY: both lie inside what the caller vouches for.
    let edges = unsafe { part(address, first).wrapping_add(part(last.max(first), end)) };
    // SAFETY: so do the whole words between them.
    edges.wrapping_add(unsafe { words(first, last.saturating_sub(first) / WORD) })
}

/// # Safety
/// `count` words from `address` on can be read; it is a multiple of their size.
unsafe fn words(address: usize, count: usize) -> u64 {
    let at = |index: usize| (address as *const u64).wrapping_add(index);
    let whole = count / LANES * LANES;
    let mut sums = [0u64; LANES];
    for index in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the index is below `count`.
            *sum = sum.wrapping_add(unsafe { read_word(at(index + lane)) });
        }
    }
    // SAFETY: as above.
    let rest = (whole..count).map(|index| unsafe { read_word(at(index)) });
    sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

/// Bytes of one word, each where it stands in it.
///
/// # Safety
/// What lies from `begin` to `end` can be read; both are in one word.
unsafe fn part(begin: usize, end: usize) -> u64 {
    (begin..end).fold(0, |sum, at| {
        // SAFETY: the caller vouches for it.
        let byte = unsafe { (at as *const u8).read_volatile() };
        sum + (u64::from(byte) << (8 * (at % WORD)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> u64 {
        // SAFETY: it is a slice.
        unsafe { sum(bytes.as_ptr() as usize, bytes.len()) }
    }

    /// The same by the definition, for memory that begins at `at` bytes in a word.
    fn plain(bytes: &[u8], at: usize) -> u64 {
        bytes.iter().enumerate().fold(0, |sum, (index, byte)| {
            sum.wrapping_add(u64::from(*byte) << (8 * ((at + index) % WORD)))
        })
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_the_words(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            skipped in 0usize..16,
        ) {
            let part = &bytes[skipped.min(bytes.len())..];
            prop_assert_eq!(of(part), plain(part, part.as_ptr() as usize % WORD));
        }

        #[test]
        fn a_change_of_one_byte_changes_it(
            mut bytes in prop::collection::vec(any::<u8>(), 1..400),
            at in any::<prop::sample::Index>(),
            by in 1u8..,
        ) {
            let before = of(&bytes);
            let at = at.index(bytes.len());
            bytes[at] = bytes[at].wrapping_add(by);
            prop_assert_ne!(of(&bytes), before);
        }
    }
}

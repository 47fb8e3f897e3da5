//! Whether pieces of memory have the sums that they had first.
//!
//! Large ones are not summed again while the kernel says that no page of them was written to. It is
//! asked for that only once they were the same for a while: to notice the first write to a page costs
//! whoever writes about as long as to fill it. And it is relied on only after one more sum, a while
//! later, which catches what a device or the kernel had begun to write before (`written`).
#![allow(unsafe_code)]

use super::sum::sum;
use super::written::{Answer, Pages, Range};
use crate::sync::{Mutex, lock};
use std::time::{Duration, Instant};

/// Less is summed in less time than the kernel takes to answer.
const ASKED_BYTES: usize = 1 << 20;

/// Pieces of memory.
#[derive(Debug)]
pub struct Watched {
    pieces: Vec<Piece>,
    bytes: usize,
    settle: Duration,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
struct Piece {
    address: usize,
    bytes: usize,
    first: u64,
}

#[derive(Debug)]
enum Stage {
    /// They are summed at every look, and have been the same since then.
    Summed(Instant),
    /// They are protected, and still summed at every look.
    Settling(Pages),
    /// The kernel is relied on; these parts lie on pages that it isn't asked about.
    Settled(Pages, Vec<Piece>),
    /// The kernel doesn't tell.
    Untold,
}

impl Watched {
    /// Sums pieces of memory, given by address and bytes, a first time.
    ///
    /// # Safety
    /// They are mapped, and readable, whenever this or another function of it runs.
    #[must_use]
    pub unsafe fn new(pieces: Vec<(usize, usize)>, settle: Duration) -> Self {
        let bytes: usize = pieces.iter().map(|(_, bytes)| bytes).sum();
        let pieces = pieces.into_iter().map(Piece::of);
        let is_asked = bytes >= ASKED_BYTES;
        let stage = if is_asked { Stage::Summed(Instant::now()) } else { Stage::Untold };
        Self { pieces: pieces.collect(), bytes, settle, stage: Mutex::new(stage) }
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The sums as they were first.
    pub fn first(&self) -> impl Iterator<Item = u64> {
        self.pieces.iter().map(|piece| piece.first)
    }

    /// The sums as they are now.
    pub fn read(&self) -> impl Iterator<Item = u64> {
        self.pieces.iter().map(Piece::sum)
    }

    /// Whether the kernel is relied on.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Settled(..))
    }

    /// Whether the sums are as they were first.
    ///
    /// `relies` says whether the kernel may be asked at all.
    #[must_use]
    pub fn holds(&self, relies: bool) -> bool {
        // Another thread asks already, or a child of `fork` finds it held by nobody.
        let Ok(mut stage) = self.stage.try_lock() else { return self.is_same() };
        let now = std::mem::replace(&mut *stage, Stage::Untold);
        let (next, same) = match now {
            Stage::Untold => return self.is_same(),
            Stage::Settled(pages, parts) if relies => self.look_settled(pages, parts),
            Stage::Settling(pages) if relies => self.look_settling(pages),
            Stage::Summed(since) if relies && since.elapsed() >= self.settle => {
                (self.protected(), self.is_same())
            }
            Stage::Summed(since) => (Stage::Summed(since), self.is_same()),
            Stage::Settled(..) | Stage::Settling(_) => (anew(), self.is_same()),
        };
        *stage = if same { next } else { anew() };
        same
    }

    fn protected(&self) -> Stage {
        let pieces = self.pieces.iter().map(|piece| (piece.address, piece.bytes));
        Pages::protected(pieces).map_or(Stage::Untold, Stage::Settling)
    }

    fn look_settling(&self, mut pages: Pages) -> (Stage, bool) {
        match asked(&pages) {
            Answer::Untouched(time) if time >= self.settle => {
                // Summed before the pieces are: what is written meanwhile is missed by one at most.
                let parts = self.parts(pages.given_up());
                (Stage::Settled(pages, parts), self.is_same())
            }
            Answer::Untouched(_) => (Stage::Settling(pages), self.is_same()),
            Answer::Written(found) => {
                let next = if pages.give_up(&found) { Stage::Settling(pages) } else { anew() };
                (next, self.is_same())
            }
            Answer::Unknown => (anew(), self.is_same()),
        }
    }

    fn look_settled(&self, mut pages: Pages, mut parts: Vec<Piece>) -> (Stage, bool) {
        let answer = asked(&pages);
        if !parts.iter().all(Piece::is_same) {
            return (anew(), false);
        }
        match answer {
            Answer::Untouched(_) => (Stage::Settled(pages, parts), true),
            Answer::Written(found) => {
                // In this order: what is written after the part was summed, but before its piece was,
                // is seen now; what is written later, by the next look.
                parts.extend(self.parts(&found));
                let is_on = |piece: &&Piece| found.iter().any(|range| piece.on(*range).is_some());
                let same = self.pieces.iter().filter(is_on).all(Piece::is_same);
                let is_given_up = same && pages.give_up(&found);
                (if is_given_up { Stage::Settled(pages, parts) } else { anew() }, same)
            }
            Answer::Unknown => (anew(), self.is_same()),
        }
    }

    /// What of the pieces lies on some pages, with its sums.
    fn parts(&self, pages: &[Range]) -> Vec<Piece> {
        let on = |range: Range| self.pieces.iter().filter_map(move |piece| piece.on(range));
        pages.iter().flat_map(|range| on(*range)).map(Piece::of).collect()
    }

    fn is_same(&self) -> bool {
        self.pieces.iter().all(Piece::is_same)
    }
}

/// The first stage, from now on.
fn anew() -> Stage {
    Stage::Summed(Instant::now())
}

fn asked(pages: &Pages) -> Answer {
    // SAFETY: whoever made the pieces vouches that they are mapped.
    unsafe { pages.ask() }
}

impl Piece {
    /// A piece that has the sum that it has now.
    fn of((address, bytes): (usize, usize)) -> Self {
        // SAFETY: whoever made the pieces vouches for them and so for their parts.
        Self { address, bytes, first: unsafe { sum(address, bytes) } }
    }

    fn sum(&self) -> u64 {
        // SAFETY: as above.
        unsafe { sum(self.address, self.bytes) }
    }

    fn is_same(&self) -> bool {
        self.sum() == self.first
    }

    /// Address and bytes of what of it lies in a range; None for nothing.
    fn on(&self, (begin, end): Range) -> Option<(usize, usize)> {
        let (begin, end) = (begin.max(self.address), end.min(self.address + self.bytes));
        (begin < end).then(|| (begin, end - begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of its own pages, private and of no file.
    fn large() -> Vec<u8> {
        let mut made = vec![0; 4 * ASKED_BYTES];
        made.iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
        made
    }

    fn watched(memory: &[u8]) -> Watched {
        let half = memory.len() / 2;
        let begin = memory.as_ptr() as usize;
        let pieces = vec![(begin, half), (begin + half, memory.len() - half)];
        // SAFETY: the slice outlives what is made of it in each test.
        unsafe { Watched::new(pieces, Duration::ZERO) }
    }

    #[test]
    fn every_write_is_seen_whether_the_kernel_is_relied_on_or_not() {
        let mut memory = large();
        let watched = watched(&memory);
        for at in [0, 1, 5000, memory.len() / 2, memory.len() - 1] {
            for _ in 0..4 {
                assert!(watched.holds(true));
            }
            memory[at] ^= 1;
            assert!(!watched.holds(true), "byte {at}");
            memory[at] ^= 1;
        }
        assert!(watched.holds(false));
        assert!(!watched.is_settled());
    }

    #[test]
    fn what_one_protects_again_counts_as_written_to_for_another() {
        let mut memory = large();
        let (one, other) = (watched(&memory), watched(&memory));
        for _ in 0..4 {
            assert!(one.holds(true) && other.holds(true));
        }
        memory[7] ^= 1;
        // Protects it again, after which the kernel knows of no write.
        assert!(!one.holds(true));
        assert!(!one.holds(true));
        assert!(!other.holds(true));
        memory[7] ^= 1;
        assert!(one.holds(true) && other.holds(true));
    }

    #[test]
    fn small_ones_are_summed() {
        let mut memory = vec![1u8; 100];
        let watched = watched(&memory);
        assert!((0..4).all(|_| watched.holds(true)));
        assert!(!watched.is_settled());
        memory[99] = 2;
        assert!(!watched.holds(true));
    }
}

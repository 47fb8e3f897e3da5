//! The order of uses: ticks that never go back.
//!
//! A later use gets a higher tick, on whatever thread, without a counter that all threads share: a
//! tick is the time-stamp counter, read in the order of the program (`clock::ordered_now`). Where
//! that counter isn't invariant a shared count does it, and also where threads take turns: nobody
//! contends for it there.

/// A moment in the order of uses, in units of four cycles since the cache was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub(super) u64);

impl Tick {
    /// What a dead entry has in place of a tick.
    pub(super) const DEAD: Self = Self(0);
    /// What an entry has until it is in the table: it counts as the newest.
    pub(super) const NEW: Self = Self((1 << 56) - 1);
    pub(super) const FIRST: u64 = 1;
    const LAST: u64 = Self::NEW.0 - 1;

    /// The last tick is that of about three years of running; from then on all uses count as one.
    fn of(raw: u64) -> Self {
        Self(raw.clamp(Self::FIRST, Self::LAST))
    }
}

#[cfg(not(any(loom, shuttle)))]
mod source {
    use super::Tick;
    use crate::clock::{self, Ticks};
    use crate::sync::{Ordering, TAKE_TURNS, Word};

    /// Gives the ticks of one cache.
    #[derive(Debug)]
    pub struct Clock {
        origin: u64,
        /// Where threads take turns, or the processor's counter can't be used.
        count: Word,
    }

    /// Whether uses are counted. Where threads take turns nobody contends for the count, and reading
    /// the processor's costs 15 ns.
    #[inline]
    pub(super) fn counts() -> bool {
        TAKE_TURNS || !clock::orders()
    }

    impl Default for Clock {
        fn default() -> Self {
            Self { origin: clock::ordered_now().raw(), count: Word::new(Tick::FIRST) }
        }
    }

    /// A reading for [`Clock::at`]. Where uses are counted nothing is read.
    #[inline]
    #[must_use]
    pub fn reading() -> Ticks {
        if counts() { Ticks::default() } else { clock::ordered_now() }
    }

    impl Clock {
        /// The present tick.
        #[inline]
        pub fn now(&self) -> Tick {
            self.at(reading())
        }

        /// The tick of a [`reading`], or of any other by [`clock::ordered_now`].
        #[inline]
        pub fn at(&self, reading: Ticks) -> Tick {
            if counts() {
                return self.next();
            }
            // Two readings of one thread are some twenty cycles apart, so they stay two ticks.
            Tick::of(reading.raw().saturating_sub(self.origin) / 4)
        }

        #[inline]
        fn next(&self) -> Tick {
            // Relaxed: one counter has one order of changes, and that order is all it gives.
            Tick::of(self.count.fetch_add(1, Ordering::Relaxed))
        }
    }
}

#[cfg(any(loom, shuttle))]
mod source {
    use super::Tick;
    use crate::sync::{Ordering, SharedU64};

    /// Gives the ticks of one cache.
    #[derive(Debug)]
    pub struct Clock(SharedU64);

    impl Default for Clock {
        fn default() -> Self {
            Self(SharedU64::new(Tick::FIRST))
        }
    }

    impl Clock {
        /// The present tick. Relaxed: like a processor's counter it orders nothing but itself.
        pub fn now(&self) -> Tick {
            Tick::of(self.0.fetch_add(1, Ordering::Relaxed))
        }
    }
}

pub use source::Clock;
#[cfg(not(any(loom, shuttle)))]
pub use source::reading;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn ticks_lie_between_what_is_dead_and_what_is_new() {
        assert!(Tick::DEAD < Tick::of(0) && Tick::of(u64::MAX) < Tick::NEW);
        assert_eq!(Tick::of(u64::MAX), Tick::of(1 << 56));
        assert_eq!(Tick::of((1 << 56) - 3), Tick((1 << 56) - 3));
    }

    #[test]
    fn a_tick_is_four_cycles() {
        let clock = Clock::default();
        let began = clock::ordered_now();
        let first = clock.at(began);
        std::thread::sleep(std::time::Duration::from_millis(1));
        let ended = clock::ordered_now();
        let ticks = clock.at(ended).0 - first.0;
        let expected = if source::counts() { 1 } else { (ended.raw() - began.raw()) / 4 };
        assert!(ticks.abs_diff(expected) <= 1, "{ticks} ticks, not {expected}");
    }
}

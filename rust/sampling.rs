//! Which hits are timed: few of them, drawn at random, so that their scaled sum is unbiased.
//!
//! To read the clock twice takes as long as a third of a hit. The first hit is timed; each later one is
//! timed with a chance of one in [`Sampling::MEAN_GAP`], whatever the others were, and then counts that
//! often. So the expected sum is the true one after any number of hits, also if their times follow a
//! pattern. Not for what is timed anyhow: misses, batches, hits with a trace.

use crate::sync::{Ordering, Word};
use std::hash::{BuildHasher, RandomState};

/// How long a hit took, in seconds.
#[derive(Clone, Copy, Debug)]
pub enum HitTime {
    /// Nobody looked.
    Unknown,
    /// It was timed because [`Sampling::is_due`].
    Drawn(f64),
    /// It was timed anyhow.
    Measured(f64),
}

/// What some of the threads draw from.
#[derive(Debug, Default)]
pub struct Sampling {
    /// Hits that go by until the next one that is timed.
    left: Word,
    /// The state of the generator (splitmix64); even until the first hit.
    drawn: Word,
}

impl Sampling {
    /// Of so many hits one is timed, in the mean.
    pub const MEAN_GAP: u32 = 16;
    /// Bits of a random number of which all are zero for one hit in `MEAN_GAP`.
    const BITS: u32 = Self::MEAN_GAP.trailing_zeros();
    /// Even, so that an odd state stays odd.
    const STEP: u64 = 0x9E37_79B9_7F4A_7C16;

    /// Draws what follows from `seed`, which is not 0.
    #[cfg(test)]
    fn seeded(seed: u64) -> Self {
        Self { left: Word::new(0), drawn: Word::new(seed << 1) }
    }

    /// Whether the next hit is one that is timed.
    // Relaxed, here and below: a draw publishes no other memory.
    #[inline]
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// A hit went by that nobody has timed.
    #[inline]
    pub fn pass(&self) {
        // Due by now, if another thread was faster: then the next one is timed instead.
        let pass = |left: u64| left.checked_sub(1);
        let _ = self.left.update(Ordering::Relaxed, Ordering::Relaxed, pass);
    }

    /// How often a hit counts that was timed because [`Self::is_due`]; 0 if another thread's was that
    /// hit.
    #[inline]
    #[must_use]
    pub fn weight(&self) -> u32 {
        let state = self.drawn.load(Ordering::Relaxed);
        let is_first = state.is_multiple_of(2);
        if is_first {
            let seed = if state == 0 { RandomState::new().hash_one(0) } else { state };
            self.drawn.store(seed | 1, Ordering::Relaxed);
        }
        // It goes by if it isn't the one.
        let next = |left: u64| Some(left.checked_sub(1).unwrap_or_else(|| self.gap()));
        match self.left.update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(0) if is_first => 1,
            Ok(0) => Self::MEAN_GAP,
            _ => 0,
        }
    }

    /// Hits that go by before one is timed: each is with the same chance.
    fn gap(&self) -> u64 {
        let mut gap = 0;
        loop {
            let random = self.random();
            let any = (1..Self::BITS).fold(random, |any, bit| any | random >> bit);
            let lowest = u64::MAX / (u64::from(Self::MEAN_GAP) - 1);
            match !any & lowest {
                0 => gap += u64::from(u64::BITS / Self::BITS),
                timed => return gap + u64::from(timed.trailing_zeros() / Self::BITS),
            }
        }
    }

    fn random(&self) -> u64 {
        let state = self.drawn.fetch_add(Self::STEP, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hits whose time is told by a clock of the test: which were timed, and the scaled sum.
    fn sample(sampling: &Sampling, times: &[f64]) -> (Vec<usize>, f64) {
        let (mut timed, mut sum) = (Vec::new(), 0.0);
        for (hit, time) in times.iter().enumerate() {
            if sampling.is_due() {
                timed.push(hit);
                sum += f64::from(sampling.weight()) * time;
            } else {
                sampling.pass();
            }
        }
        (timed, sum)
    }

    /// Times with the period of the mean gap, and a slow hit now and then: gaps that are all alike
    /// would meet the same ones again and again.
    fn times(hits: usize) -> Vec<f64> {
        (0..hits).map(|hit| if hit % 16 == 5 { 40.0 } else { 1.0 + (hit % 3) as f64 }).collect()
    }

    #[test]
    fn the_first_hit_is_timed_and_then_one_in_sixteen() {
        let (times, samplings) = (times(1_000), 200);
        let mut count = 0;
        for seed in 0..samplings {
            let sampling = if seed == 0 { Sampling::default() } else { Sampling::seeded(seed) };
            let (timed, _) = sample(&sampling, &times);
            assert_eq!(timed[0], 0);
            count += timed.len();
        }
        let mean = count as f64 / samplings as f64;
        assert!((62.0..65.0).contains(&mean), "{mean} of 1,000 hits are timed, not 1 + 999 / 16");
    }

    #[test]
    fn the_first_hit_counts_once() {
        let sampling = Sampling::default();
        assert_eq!(sample(&sampling, &[3.0]).1, 3.0);
    }

    #[test]
    fn the_scaled_sum_is_the_true_one_in_the_mean_after_any_number_of_hits() {
        for (hits, samplings) in [(2, 200_000_u32), (20, 200_000), (333, 40_000)] {
            let times = times(hits);
            let truth: f64 = times.iter().sum();
            let sums = (1..=samplings).map(|seed| sample(&Sampling::seeded(seed.into()), &times).1);
            let mean = sums.sum::<f64>() / f64::from(samplings);
            assert!((mean / truth - 1.0).abs() < 0.02, "{mean} instead of {truth} of {hits} hits");
        }
    }

    #[test]
    fn no_pattern_of_times_is_met_more_often_than_another() {
        let sampling = Sampling::seeded(7);
        let times = times(2_000_000);
        let truth: f64 = times.iter().sum();
        let (timed, sum) = sample(&sampling, &times);
        assert!((sum / truth - 1.0).abs() < 0.01, "{sum} instead of {truth}");
        let gaps: Vec<usize> = timed.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.contains(&1) && gaps.iter().any(|gap| *gap > 64), "from one to any");
    }

    #[test]
    fn a_hit_that_another_thread_timed_counts_as_one_that_went_by() {
        let sampling = Sampling::seeded(3);
        while sampling.is_due() {
            assert_ne!(sampling.weight(), 0);
        }
        let left = sampling.left.load(Ordering::Relaxed);
        assert_eq!(sampling.weight(), 0);
        assert_eq!(sampling.left.load(Ordering::Relaxed), left - 1);
    }

    #[cfg(not(take_turns))]
    #[test]
    fn threads_that_draw_from_one_count_no_hit_twice() {
        let sampling = Sampling::seeded(3);
        let weights = std::thread::scope(|scope| {
            let draw = || {
                (0..20_000)
                    .map(|_| {
                        if sampling.is_due() {
                            u64::from(sampling.weight())
                        } else {
                            sampling.pass();
                            0
                        }
                    })
                    .sum::<u64>()
            };
            let threads = [(); 4].map(|()| scope.spawn(draw));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
        });
        assert!((70_000..90_000).contains(&weights), "{weights} for 80,000 hits");
    }
}

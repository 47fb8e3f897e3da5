//! What a backend has done: nine figures that others may also write.
//!
//! Each field is one atomic, so a count is exact from any number of threads; fields of one call
//! are not changed together, so a reader may see the hit before its seconds.

use crate::sampling::{HitTime, Sampling};
use crate::sync::{Ordering, Word};

/// A counter that any thread may add to and anyone may set.
#[derive(Debug, Default)]
pub struct Counter(Word);

impl Counter {
    /// A counter that begins at `value`.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self(Word::new(value))
    }

    /// Adds `n`.
    // Relaxed, here and below: a count publishes no other memory.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Raises the counter to `n` if it is lower.
    pub fn raise_to(&self, n: u64) {
        let raise = |value| (value < n).then_some(n);
        let _ = self.0.update(Ordering::Relaxed, Ordering::Relaxed, raise);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A sum of seconds that any thread may add to and anyone may set.
#[derive(Debug, Default)]
pub struct Seconds(Word);

impl Seconds {
    /// A sum that begins at `value`.
    #[must_use]
    pub fn new(value: f64) -> Self {
        Self(Word::new(value.to_bits()))
    }

    /// Adds `seconds`.
    #[inline]
    pub fn add(&self, seconds: f64) {
        let add = |bits| Some((f64::from_bits(bits) + seconds).to_bits());
        let _ = self.0.update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The present sum.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Replaces the sum.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// What was done for one op and view.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallFigures {
    /// Lookups that found a value.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Prompts whose computation raised.
    pub failed: u64,
    /// Hits that waited for another thread's computation.
    pub waits: u64,
    /// Time spent in those waits, in seconds.
    pub wait_s: f64,
    /// Time spent in computations, in seconds.
    pub compute_s: f64,
    /// Time that the computations of the values took that hits did not repeat, in seconds.
    pub saved_s: f64,
    /// Entries that had to go for others.
    pub evictions: u64,
    /// Values computed again after they had been evicted.
    pub recomputed: u64,
}

impl CallFigures {
    /// Adds those of another time or backend.
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.failed += other.failed;
        self.waits += other.waits;
        self.wait_s += other.wait_s;
        self.compute_s += other.compute_s;
        self.saved_s += other.saved_s;
        self.evictions += other.evictions;
        self.recomputed += other.recomputed;
    }

    /// Takes away those of an earlier time.
    pub fn take(&mut self, earlier: &Self) {
        self.hits = self.hits.saturating_sub(earlier.hits);
        self.misses = self.misses.saturating_sub(earlier.misses);
        self.failed = self.failed.saturating_sub(earlier.failed);
        self.waits = self.waits.saturating_sub(earlier.waits);
        self.wait_s -= earlier.wait_s;
        self.compute_s -= earlier.compute_s;
        self.saved_s -= earlier.saved_s;
        self.evictions = self.evictions.saturating_sub(earlier.evictions);
        self.recomputed = self.recomputed.saturating_sub(earlier.recomputed);
    }
}

/// The figures of one backend.
#[derive(Debug, Default)]
pub struct Stats {
    /// Lookups that found a value.
    pub cache_hits: Counter,
    /// Lookups that found none.
    pub cache_misses: Counter,
    /// Computations that gave a value.
    pub forward_passes: Counter,
    /// Time spent in lookups and computations, in seconds; that of hits by [`Sampling`].
    pub scoring_wall_s: Seconds,
    /// Batches handed to a computation.
    pub batches_sent: Counter,
    /// Prompts in those batches.
    pub batched_prompts: Counter,
    /// The largest of those batches, in prompts.
    pub max_batch_size: Counter,
    /// Prompts whose computation raised.
    pub failed_computes: Counter,
    /// Lookups that waited for another thread's computation; they count as hits.
    pub waits: Counter,
    /// Time spent in those waits, in seconds.
    pub wait_s: Seconds,
    /// Values computed although another thread was computing them: a cycle, or a wait that was
    /// too long.
    pub duplicate_computes: Counter,
    /// Events that the trace could not accept.
    pub trace_lost: Counter,
    /// Which hits are timed.
    pub sampling: Sampling,
}

impl Stats {
    fn sums(&self) -> [&Counter; 9] {
        [
            &self.cache_hits,
            &self.cache_misses,
            &self.forward_passes,
            &self.batches_sent,
            &self.batched_prompts,
            &self.failed_computes,
            &self.waits,
            &self.duplicate_computes,
            &self.trace_lost,
        ]
    }

    fn spans(&self) -> [&Seconds; 2] {
        [&self.scoring_wall_s, &self.wait_s]
    }

    /// Adds those of another time or backend.
    pub fn add(&self, other: &Self) {
        self.sums().iter().zip(other.sums()).for_each(|(mine, theirs)| mine.add(theirs.get()));
        self.spans().iter().zip(other.spans()).for_each(|(mine, theirs)| mine.add(theirs.get()));
        self.max_batch_size.raise_to(other.max_batch_size.get());
    }

    /// Takes away those of an earlier time. The largest batch stays, if any was sent since.
    pub fn take(&self, earlier: &Self) {
        for (mine, theirs) in self.sums().iter().zip(earlier.sums()) {
            mine.set(mine.get().saturating_sub(theirs.get()));
        }
        self.spans().iter().zip(earlier.spans()).for_each(|(mine, theirs)| mine.add(-theirs.get()));
        if self.batches_sent.get() == 0 {
            self.max_batch_size.set(0);
        }
    }

    /// Counts one lookup that found a value.
    #[inline]
    pub fn hit(&self, time: HitTime) {
        self.cache_hits.add(1);
        match time {
            HitTime::Unknown => self.sampling.pass(),
            HitTime::Drawn(wall_s) => {
                self.scoring_wall_s.add(wall_s * f64::from(self.sampling.weight()));
            }
            HitTime::Measured(wall_s) => self.scoring_wall_s.add(wall_s),
        }
    }

    /// Counts one lookup that found none, and a value computed for it in `wall_s` seconds.
    #[inline]
    pub fn computed(&self, wall_s: f64) {
        self.cache_misses.add(1);
        self.forward_passes.add(1);
        self.scoring_wall_s.add(wall_s);
    }

    /// Counts one batch of `size` prompts that is handed to a computation.
    pub fn batch_sent(&self, size: u64) {
        self.batches_sent.add(1);
        self.batched_prompts.add(size);
        self.max_batch_size.raise_to(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_seconds_are_exact_from_eight_threads() {
        let stats = Stats::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..10_000).for_each(|_| stats.hit(HitTime::Measured(0.25))));
            }
        });
        assert_eq!(stats.cache_hits.get(), 80_000);
        assert_eq!(stats.scoring_wall_s.get(), 20_000.0);
    }

    #[test]
    fn every_hit_counts_and_some_are_timed() {
        let stats = Stats::default();
        let mut timed = 0;
        for hit in 0..50_000 {
            let is_due = stats.sampling.is_due();
            assert!(is_due || hit > 0, "the first is timed");
            timed += u64::from(is_due);
            stats.hit(if is_due { HitTime::Drawn(0.5) } else { HitTime::Unknown });
        }
        assert_eq!(stats.cache_hits.get(), 50_000);
        assert_eq!(stats.scoring_wall_s.get(), (1 + (timed - 1) * 16) as f64 / 2.0);
        assert!((2_700..3_600).contains(&timed), "{timed} of 50,000");
    }

    #[test]
    fn the_largest_batch_is_kept() {
        let stats = Stats::default();
        [3, 7, 5].into_iter().for_each(|size| stats.batch_sent(size));
        assert_eq!(stats.max_batch_size.get(), 7);
        assert_eq!(stats.batched_prompts.get(), 15);
    }
}

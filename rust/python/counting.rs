//! How a `BackendStats` counts what calls did.

use super::op_counters::Counts;
use super::stats::{BackendStats, Figures};
use super::stored::{Left, Stored};
use crate::sampling::HitTime;
use crate::stats::CallFigures;
use pyo3::prelude::*;

impl BackendStats {
    /// Whether a hit that begins now is timed.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.figures.mine().stats.sampling.is_due()
    }

    /// Counts one hit: what nearly every call does.
    #[inline]
    pub(super) fn add_hit(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        time: HitTime,
        saved_s: f64,
    ) -> PyResult<()> {
        let mine = self.figures.mine();
        mine.stats.hit(time);
        mine.op_counters.change(op, view_id, |figures| {
            figures.hits += 1;
            figures.saved_s += saved_s;
        })
    }

    /// Counts one hit that nobody has timed; false if its op and view would have to be read as text.
    #[cfg(take_turns)]
    #[inline(always)]
    pub(super) fn add_known_hit(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        saved_s: f64,
    ) -> bool {
        let mine = self.figures.mine();
        let is_known = mine.op_counters.change_known(op, view_id, |figures| {
            figures.hits += 1;
            figures.saved_s += saved_s;
        });
        if is_known {
            mine.stats.hit(HitTime::Unknown);
        }
        is_known
    }

    /// Counts one prompt that was computed in `wall_s` seconds and stored, and what had to go for it:
    /// what nearly every miss does.
    #[inline]
    pub(super) fn add_computed(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        wall_s: f64,
        stored: &Stored,
    ) -> PyResult<()> {
        let is_of_this =
            |left: &Left| left.key.op_and_view().is_some_and(|of| of.0.is(op) && of.1.is(view_id));
        // Mostly one of the same op and view: counted without another look for their line.
        let here = stored.evicted.iter().take_while(|left| is_of_this(left)).count();
        let mine = self.figures.mine();
        mine.stats.computed(wall_s);
        mine.op_counters.change(op, view_id, |figures| {
            figures.misses += 1;
            figures.compute_s += wall_s;
            figures.recomputed += stored.recomputed;
            figures.evictions += here as u64;
        })?;
        self.add_evicted(op.py(), &stored.evicted[here..])
    }

    /// Counts the entries that had to go.
    pub(super) fn add_evicted(&self, py: Python<'_>, evicted: &[Left]) -> PyResult<()> {
        let op_counters = &self.figures.mine().op_counters;
        let named = evicted.iter().filter_map(|left| left.key.op_and_view());
        named.into_iter().try_for_each(|(op, view_id)| {
            op_counters.change(op.bind(py), view_id.bind(py), |figures| figures.evictions += 1)
        })
    }

    /// Adds what one call did for an op and a view.
    pub(super) fn add(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        counts: Counts,
    ) -> PyResult<()> {
        let Figures { stats, op_counters } = self.figures.mine();
        stats.cache_hits.add(counts.hits);
        stats.cache_misses.add(counts.misses);
        stats.forward_passes.add(counts.passes);
        stats.failed_computes.add(counts.failed);
        stats.waits.add(counts.waits);
        stats.wait_s.add(counts.wait_s);
        stats.duplicate_computes.add(counts.duplicates);
        stats.trace_lost.add(counts.lost);
        stats.scoring_wall_s.add(counts.wall_s);
        if counts.batch > 0 {
            stats.batch_sent(counts.batch);
        }
        op_counters.change(op, view_id, |figures| {
            figures.add(&CallFigures {
                hits: counts.hits,
                misses: counts.misses,
                failed: counts.failed,
                waits: counts.waits,
                wait_s: counts.wait_s,
                compute_s: if counts.misses > 0 { counts.wall_s } else { 0.0 },
                saved_s: counts.saved_s,
                evictions: 0,
                recomputed: counts.recomputed,
            });
        })
    }
}

"""Resampled texts: how far a mean may be from the truth, in units of its own error.

Bootstrap-t over texts. Each of the resamples draws as many texts as there are, with replacement;
the pivot t* = (mean* - mean)/error*, with the linearised error of that very resample, has nearly
the law of (mean - truth)/error, and is what skewed quantities such as a divergence need: a
percentile interval of them is too short.

``scipy.stats.bootstrap`` (1.17) has the percentile, the basic and the BCa interval, none of them
studentised, and gathers the data of each statistic anew; what is ours is the pivot and its speed:
sums over a resample are products of how often each text was drawn, so a block of resamples is one
product of matrices for all figures of all views. A test holds the pivots against scipy's resamples.

Source:
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 12.5; Davison and
    Hinkley, Bootstrap Methods and their Application (1997), sections 2.4 and 3.8 (clusters).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forwardcache.statistics.totals import SAME, Float64s, Totals

RESAMPLES = 10_000
"""Resamples of the texts."""

LEVEL = 0.95
"""Confidence of every interval."""

SEED = 0

_BLOCK_PICKS = 500_000
"""Texts drawn at once; 30 bytes of memory each."""

_MOST_FIGURES = 1024
"""Figures in one product: at 1,024 clusters 30 MB, and 80 MB of pivots."""


def studentised_ends(figures: Sequence[Totals], *, seed: int = SEED) -> tuple[Float64s, Float64s]:
    """The pivots' lower and upper quantile for ``LEVEL``, of many figures at once.

    Args:
        figures: Of finite sums, all over the same number of clusters, two or more; their work grows
            with that number (``Totals.grouped`` bounds it), and is less for those that share one
            array of counts.
        seed: Of the resampling; the same values give the same ends, whatever else is with them.

    Returns:
        float64[figures] twice: the order statistics ⌊(R+1)·t⌋ and ⌈(R+1)·(1-t)⌉ of R pivots, with
        t = (1 - ``LEVEL``)/2. They are infinite where so many resamples are of texts with one and
        the same mean that isn't the figure's: nothing is known of the error in that direction.
    """
    parts = [
        _ends(figures[start : start + _MOST_FIGURES], seed)
        for start in range(0, len(figures), _MOST_FIGURES)
    ]
    low, high = (np.concatenate(ends) if parts else np.empty(0) for ends in _apart(parts))
    return low, high


def _apart(parts: list[tuple[Float64s, Float64s]]) -> tuple[list[Float64s], list[Float64s]]:
    return [low for low, _ in parts], [high for _, high in parts]


def _ends(figures: Sequence[Totals], seed: int) -> tuple[Float64s, Float64s]:
    pivots = _pivots(figures, np.random.default_rng(seed))
    tail = (1.0 - LEVEL) / 2
    low = int(np.floor((RESAMPLES + 1) * tail)) - 1
    high = int(np.ceil((RESAMPLES + 1) * (1.0 - tail))) - 1
    # Order statistics and no interpolation: between two infinities there is no number.
    ordered = np.partition(pivots, [low, high], axis=0)
    return ordered[low], ordered[high]


def _pivots(figures: Sequence[Totals], chance: np.random.Generator) -> Float64s:
    """(mean* - mean)/error* of every resample and figure, [RESAMPLES, figures]."""
    products = _Products(figures)
    block = max(1, _BLOCK_PICKS // products.clusters)
    starts = range(0, RESAMPLES, block)
    return np.concatenate(
        [products.pivots(_drawn(chance, products.clusters, min(block, RESAMPLES - start)))
         for start in starts]
    )  # fmt: skip


def _drawn(chance: np.random.Generator, clusters: int, resamples: int) -> Float64s:
    """How often each cluster is in each resample, [resamples, clusters]."""
    picks = chance.integers(0, clusters, (resamples, clusters))
    picks += clusters * np.arange(resamples)[:, None]
    often = np.bincount(picks.ravel(), minlength=resamples * clusters)
    return often.reshape(resamples, clusters).astype(np.float64)


class _Products:
    """What has to be summed over a resample, one column each.

    Of each figure errors, their squares and their products with counts; counts and their squares
    once for all figures that share them.
    """

    def __init__(self, figures: Sequence[Totals]) -> None:
        distinct = {id(each.counts): each.counts for each in figures}
        at = {known: number for number, known in enumerate(distinct)}
        self._of_figure = np.array([at[id(each.counts)] for each in figures], dtype=np.intp)
        errors = np.stack([each.errors for each in figures], axis=1)
        counts = np.stack(list(distinct.values()), axis=1)
        of_figure = counts[:, self._of_figure]
        self.clusters = len(errors)
        self._figures, self._distinct = errors.shape[1], counts.shape[1]
        self._columns = np.concatenate(
            [errors, errors**2, errors * of_figure, counts, counts**2], axis=1
        )

    def pivots(self, often: Float64s) -> Float64s:
        """[resamples, figures], for how often each cluster was drawn."""
        figures, distinct = self._figures, self._distinct
        sums = often @ self._columns
        cuts = np.cumsum([figures, figures, figures, distinct])
        error, squares, products, counts, count_squares = np.split(sums, cuts, axis=1)
        rows, row_squares = counts[:, self._of_figure], count_squares[:, self._of_figure]
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = error / rows
            rest = squares - 2 * shift * products + shift**2 * row_squares
            # What sums of squares leave of each other is rounding: such a resample has no spread.
            rest[rest <= SAME * squares] = 0.0
            spread = np.sqrt(rest * self.clusters / (self.clusters - 1)) / rows
            pivots: Float64s = shift / spread
        # No shift and no spread, or a resample without any position: it says nothing.
        pivots[np.isnan(pivots)] = 0.0
        return pivots

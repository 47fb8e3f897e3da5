"""What each distinct text adds to a mean over positions.

A mean over positions is a ratio of two sums over texts, ``sum of sums / sum of counts``, and texts
are what was drawn at random: positions of one text are alike, and a text that stands twice is no
new evidence. So a figure is kept as two numbers a distinct text, and its error is that of a ratio
estimator of cluster totals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardcache.errors import InvalidInputError

Float64s = NDArray[np.float64]

SAME = 1e-12
"""Share of a figure below which a difference is the rounding of sums in float64."""


_LOT = 20_260_101
MOST_CLUSTERS = 1024
"""Texts that are told apart in sums; more are put together at random into so many clusters.

Sums over texts that were put together by lot are independent draws too, with the same error of the
mean and the same skewness of it: a sum of g texts has 1/√g of a text's skewness, and there are 1/g
as many. So memory and time have a bound.

Source:
    The method of random groups: Wolter, Introduction to Variance Estimation (2007), chapter 2.
"""


@dataclass(frozen=True, eq=False)
class Totals:
    """One figure's sum and number of positions in each distinct text, or cluster of texts.

    Attributes:
        sums: float64[clusters], in the figure's unit.
        counts: float64[clusters], numbers of positions; 0 where there are none of a bucket.
        texts: Distinct texts that have a position; by default each count above 0 is of one.

    Raises:
        InvalidInputError: the two are of different shapes, or a count is negative.
    """

    sums: Float64s
    counts: Float64s
    texts: int = -1

    def __post_init__(self) -> None:
        if self.sums.shape != self.counts.shape or self.sums.ndim != 1:
            raise InvalidInputError(
                f"need one sum and one count a text, got shapes {self.sums.shape} and "
                f"{self.counts.shape}"
            )
        if not (self.counts >= 0.0).all():
            raise InvalidInputError(f"a count is {self.counts.min()}, allowed is 0 or more")
        if self.texts < 0:
            object.__setattr__(self, "texts", int(np.count_nonzero(self.counts)))

    @property
    def mean(self) -> float:
        """Mean over positions; NaN without any, and for infinities of both signs."""
        rows = self.counts.sum()
        with np.errstate(invalid="ignore"):
            return float(self.sums.sum() / rows) if rows else float("nan")

    @property
    def errors(self) -> Float64s:
        """float64[clusters]: by how much each sum is off the mean times its count."""
        with np.errstate(invalid="ignore"):
            return self.sums - self.mean * self.counts

    @property
    def standard_error(self) -> float:
        """Linearised standard error of ``mean``, in the figure's unit.

        √(n/(n-1) · Σ eᵢ²) / Σ cᵢ with eᵢ = sᵢ - mean·cᵢ, over n distinct texts of sum sᵢ and count
        cᵢ; 0 where all texts have one mean, as far as float64 tells; NaN for fewer than two texts.

        Source:
            Cochran, Sampling Techniques (3rd edition, 1977), sections 6.3 and 9A.
        """
        size = len(self.sums)
        if size < 2:
            return float("nan")
        squares, of_sums = (self.errors**2).sum(), (self.sums**2).sum()
        if squares <= SAME**2 * of_sums:
            return 0.0
        return float(np.sqrt(squares * size / (size - 1)) / self.counts.sum())

    def grouped(self) -> Totals:
        """The totals of at most ``MOST_CLUSTERS`` clusters."""
        texts = len(self.sums)
        if texts <= MOST_CLUSTERS:
            return self
        cluster = cluster_of_text(texts)
        sums, counts = (sums_by(cluster, each) for each in (self.sums, self.counts))
        return Totals(sums, counts, self.texts)


def sums_by(number: NDArray[np.intp], values: ArrayLike, most: int | None = None) -> Float64s:
    """Sum of the values of each number.

    Args:
        number: intp[n], from 0.
        values: [n].
        most: How many numbers there are; None: up to the largest.
    """
    known = np.asarray(values, dtype=np.float64)
    return np.bincount(number, weights=known, minlength=most or 0).astype(np.float64, copy=False)


@lru_cache(maxsize=4)
def cluster_of_text(texts: int) -> NDArray[np.intp]:
    """The cluster of each text, intp[texts]: its own, or one of ``MOST_CLUSTERS`` drawn by lot.

    Args:
        texts: How many distinct texts there are.
    """
    numbers = np.arange(texts)
    if texts > MOST_CLUSTERS:
        numbers = np.random.default_rng(_LOT).permutation(texts) % MOST_CLUSTERS
    numbers.flags.writeable = False
    return numbers

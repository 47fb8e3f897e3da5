"""Intervals of a mean over prompts, where prompts that are equal are no new evidence.

Texts are resampled, not rows: a prompt that stands a hundred times is one draw with a hundred rows.
The interval is a bootstrap-t, each resampled mean studentised by the linearised error of a ratio of
cluster totals; a percentile interval of so skewed a quantity as a divergence is too short.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_TEXTS = 20
"""Distinct texts below which there is no interval: it would cover far less than it says."""

ROUGH_TEXTS = 100
"""Distinct texts below which an interval is called rough."""

SEED = 0
_LEVEL = 95.0
_SAME = 1e-12
_MOST_DRAWS, _FEWEST_DRAWS = 2000, 400
_MOST_PICKS = 40_000_000
# Of memory these are 40 bytes each.
_BLOCK_PICKS = 250_000

_Float64s = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a mean lies with 95 % confidence.

    Attributes:
        low: Lower end; NaN where there is no interval.
        high: Upper end.
        texts: Distinct texts that it is over.
    """

    low: float
    high: float
    texts: int

    @property
    def is_known(self) -> bool:
        """Whether there were texts enough for one."""
        return self.low <= self.high

    @property
    def is_rough(self) -> bool:
        """Whether there is one, of few texts."""
        return self.is_known and self.texts < ROUGH_TEXTS

    @property
    def holds_zero(self) -> bool:
        """Whether the mean may be 0, as far as the interval tells."""
        return self.is_known and self.low <= 0.0 <= self.high


def interval_of_mean(
    values: Any, texts: Sequence[Hashable] | None = None, *, seed: int = SEED
) -> Interval:
    """The 95 % interval of the mean of ``values``, from resampled texts.

    Args:
        values: float64[n], one a prompt.
        texts: What each is of, n names; equal ones are resampled together. None: all differ.
        seed: Of the resampling; the same values give the same interval.

    Returns:
        The interval; without ends for fewer than ``FEWEST_TEXTS`` distinct texts.
    """
    known = np.asarray(values, dtype=np.float64)
    sums, counts = _totals(known, texts)
    if len(sums) < FEWEST_TEXTS:
        return Interval(float("nan"), float("nan"), len(sums))
    mean = sums.sum() / counts.sum()
    errors = sums - mean * counts
    spread = _standard_error(errors, counts.sum())
    if spread <= _SAME * abs(mean):
        return Interval(float(mean), float(mean), len(sums))
    tail = (100.0 - _LEVEL) / 2
    low, high = np.percentile(_studentised(errors, counts, seed), [tail, 100.0 - tail])
    return Interval(float(mean - high * spread), float(mean - low * spread), len(sums))


def _totals(values: _Float64s, texts: Sequence[Hashable] | None) -> tuple[_Float64s, _Float64s]:
    """Sum and number of the values of each distinct text."""
    if texts is None:
        return values, np.ones(len(values))
    numbers: dict[Hashable, int] = {}
    number = np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.intp)
    most = len(numbers)
    sums: _Float64s = np.bincount(number, weights=values, minlength=most).astype(np.float64)
    return sums, np.bincount(number, minlength=most).astype(np.float64)


def _standard_error(errors: _Float64s, rows: float) -> float:
    count = len(errors)
    return float(np.sqrt((errors**2).sum() * count / (count - 1)) / rows)


def _studentised(errors: _Float64s, counts: _Float64s, seed: int) -> _Float64s:
    """Resampled means, less the mean, in units of their own standard error.

    Sums over a resample are products of how often each text was drawn, so a block of resamples is
    one product of matrices.
    """
    chance, size = np.random.default_rng(seed), len(errors)
    draws = max(_FEWEST_DRAWS, min(_MOST_DRAWS, _MOST_PICKS // size))
    sums = np.stack([errors, counts, errors**2, errors * counts, counts**2], axis=1)
    block = max(1, _BLOCK_PICKS // size)
    found = [_block(chance, sums, min(block, draws - start)) for start in range(0, draws, block)]
    shifts, spreads = np.concatenate(found, axis=1)
    is_spread = spreads > 0.0
    studentised: _Float64s = shifts[is_spread] / spreads[is_spread]
    return studentised


def _block(chance: np.random.Generator, sums: _Float64s, draws: int) -> _Float64s:
    """Shift of the mean and its standard error, [2, draws]."""
    size = len(sums)
    picks = chance.integers(0, size, (draws, size)) + size * np.arange(draws)[:, None]
    often = np.bincount(picks.ravel(), minlength=draws * size).reshape(draws, size)
    error, rows, squares, products, row_squares = (often @ sums).T
    shift = error / rows
    rest = squares - 2 * shift * products + shift**2 * row_squares
    return np.stack([shift, np.sqrt(np.maximum(rest, 0.0) * size / (size - 1)) / rows])

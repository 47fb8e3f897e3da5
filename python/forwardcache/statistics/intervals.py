"""Where the truth lies with 95 % confidence, as far as the texts that were seen tell.

No interval is given of fewer than 20 distinct texts; one of fewer than 100 is called rough, since
it covers the truth less often than it says (``benches/RESULTS.md`` has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.errors import InvalidInputError
from forwardcache.statistics.resampling import LEVEL, SEED, studentised_ends
from forwardcache.statistics.totals import Totals, sums_by
from forwardcache.statistics.words import too_few

FEWEST_TEXTS = 20
"""Distinct texts below which there is no interval: it would cover far less than it says."""

ROUGH_TEXTS = 100
"""Distinct texts below which an interval is called rough."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a figure lies with 95 % confidence, for itself and not for all figures at once.

    Attributes:
        low: Lower end, in the figure's unit; NaN where there is no interval.
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
        """Whether the figure may be 0, as far as the interval tells."""
        return self.is_known and self.low <= 0.0 <= self.high

    def mapped(self, function: Callable[[float], float]) -> Interval:
        """The interval of a rising function of the figure.

        Args:
            function: Of an end, which may be infinite.
        """
        if not self.is_known:
            return self
        return Interval(function(self.low), function(self.high), self.texts)

    def as_json(self) -> list[float | None] | None:
        """``[low, high]``, an end that isn't known being None; None where there is no interval."""
        if not self.is_known:
            return None
        return [end if math.isfinite(end) else None for end in (self.low, self.high)]

    def __str__(self) -> str:
        if not self.is_known and self.texts < FEWEST_TEXTS:
            return f"no interval: {too_few(self.texts, FEWEST_TEXTS)}"
        if not self.is_known:
            return "no interval: a text's sum isn't finite"
        rough = "rough " if self.is_rough else ""
        return f"{rough}interval {self.low:.4g} to {self.high:.4g} over {self.texts:,} texts"


def intervals(figures: Sequence[Totals], *, seed: int = SEED) -> list[Interval]:
    """The interval of the mean of each of ``figures``, all from the same resamples.

    mean - t_high·error to mean - t_low·error, with the linearised error over texts and the
    quantiles t of the resampled pivots. Where all texts have one mean both ends are that mean. An
    end that the resamples leave open is the farthest mean of a text.

    Args:
        figures: Any number; those over the same number of texts are resampled together.
        seed: Of the resampling; the same values give the same interval.

    Returns:
        One each; without ends for fewer than ``FEWEST_TEXTS`` distinct texts, and where a sum
        isn't finite.
    """
    found = open_intervals(figures, seed=seed)
    return [closed(each, one) for each, one in zip(found, figures, strict=True)]


def closed(found: Interval, figure: Totals) -> Interval:
    """The interval with its open ends at the farthest means of texts.

    An end is open where one in 40 resamples has none of the few texts that differ: such a resample
    has no error, and tells nothing of that direction. Up to about three texts that differ do that.
    The mean of all texts that there are is hardly beyond the farthest of those seen, since most of
    them lie on its other side; so that end is far rather than near.

    Args:
        found: As ``open_intervals`` gives it.
        figure: What it is of.
    """
    if not (found.is_known and (math.isinf(found.low) or math.isinf(found.high))):
        return found
    has_any = figure.counts > 0.0
    means = figure.sums[has_any] / figure.counts[has_any]
    low = float(means.min()) if math.isinf(found.low) else found.low
    high = float(means.max()) if math.isinf(found.high) else found.high
    return Interval(low, high, found.texts)


def of_divergence(found: Interval, figure: Totals) -> Interval:
    """The interval of a mean that is 0 or more by what it is, where no text says otherwise.

    Where hardly a text differs a lower end may lie below 0. A sum below 0 is rounding, and isn't
    cut off: then neither is the end.

    Args:
        found: As ``intervals`` gives it.
        figure: What it is of.
    """
    if not found.is_known or found.low >= 0.0 or (figure.sums < 0.0).any():
        return found
    return Interval(0.0, found.high, found.texts)


def open_intervals(figures: Sequence[Totals], *, seed: int = SEED) -> list[Interval]:
    """As ``intervals``, an end being infinite where the resamples tell nothing of it.

    Args:
        figures: As there.
        seed: As there.
    """
    figures = [each.grouped() for each in figures]
    found = [_without_resampling(each) for each in figures]
    left: dict[int, list[int]] = {}
    for number, interval in enumerate(found):
        if interval is None:
            left.setdefault(len(figures[number].sums), []).append(number)
    for numbers in left.values():
        low, high = studentised_ends([figures[number] for number in numbers], seed=seed)
        for number, down, up in zip(numbers, low, high, strict=True):
            one = figures[number]
            mean, error = one.mean, one.standard_error
            ends = float(mean - up * error), float(mean - down * error)
            found[number] = Interval(*ends, one.texts)
    return [interval for interval in found if interval is not None]


def _without_resampling(one: Totals) -> Interval | None:
    """The interval where nothing has to be resampled for it; None where it has."""
    if one.texts < FEWEST_TEXTS or not np.isfinite(one.sums).all():
        return Interval(math.nan, math.nan, one.texts)
    if one.standard_error == 0.0:
        return Interval(one.mean, one.mean, one.texts)
    return None


def share_intervals(figures: Sequence[Totals], *, seed: int = SEED) -> list[Interval]:
    """The interval of each share of positions, as ``within_share`` has it.

    Args:
        figures: Of all texts, not grouped; their sums are numbers of positions that have something.
        seed: As in ``intervals``.
    """
    return [
        within_share(
            found,
            share=one.mean,
            all_have=int(np.sum((one.sums == one.counts) & (one.counts > 0.0))),
            none_have=int(np.sum((one.sums == 0.0) & (one.counts > 0.0))),
        )
        for one, found in zip(figures, open_intervals(figures, seed=seed), strict=True)
    ]


def within_share(found: Interval, *, share: float, all_have: int, none_have: int) -> Interval:
    """The interval of a share of positions, within 0 and 1.

    Where resampling leaves an end open, or says that a share is 0 or 1 for certain, that end is the
    exact one of the share of *texts*: of those whose positions all have it, or that have none. That
    is what can be told of something that three texts have, or no text at all. Where one long text
    has more than that, the end is what was seen.

    Args:
        found: As ``open_intervals`` gives it.
        share: What was seen.
        all_have: Texts with a position all of whose positions have it.
        none_have: Texts with a position none of whose positions has it.

    Source:
        Clopper and Pearson, The Use of Confidence or Fiducial Limits (1934).
    """
    if not found.is_known:
        return found
    low, high, is_certain = found.low, found.high, found.low == found.high
    if math.isinf(low) or (is_certain and low == 1.0):
        low = min(_least_share(all_have, found.texts), share)
    if math.isinf(high) or (is_certain and high == 0.0):
        high = max(1.0 - _least_share(none_have, found.texts), share)
    return Interval(max(low, 0.0), min(high, 1.0), found.texts)


def _least_share(seen: int, of: int) -> float:
    """The smallest probability of which ``seen`` of ``of`` isn't too many to be believed."""
    if not seen:
        return 0.0
    from scipy import special

    return float(special.betaincinv(seen, of - seen + 1, (1.0 - LEVEL) / 2))


def interval_of_mean(
    values: ArrayLike, texts: Sequence[Hashable] | None = None, *, seed: int = SEED
) -> Interval:
    """The interval of the mean of values.

    Args:
        values: float64[n], one a position, or one a text.
        texts: What each is of, n names; equal ones are resampled together. None: all differ.
        seed: As in ``intervals``.

    Raises:
        InvalidInputError: the lengths differ.
    """
    return intervals([totals_of(values, texts)], seed=seed)[0]


def totals_of(values: ArrayLike, texts: Sequence[Hashable] | None = None) -> Totals:
    """The totals of values that have the names of their texts.

    Args:
        values: float64[n].
        texts: As in ``interval_of_mean``.

    Raises:
        InvalidInputError: the lengths differ.
    """
    known: Any = np.asarray(values, dtype=np.float64)
    if texts is None:
        return Totals(known, np.ones(known.shape))
    if known.shape != (len(texts),):
        raise InvalidInputError(f"{len(texts)} names of texts for values of shape {known.shape}")
    number_of: dict[Hashable, int] = {}
    number = [number_of.setdefault(text, len(number_of)) for text in texts]
    of_text = np.array(number, dtype=np.intp)
    return Totals(sums_by(of_text, known), sums_by(of_text, np.ones(len(known))))

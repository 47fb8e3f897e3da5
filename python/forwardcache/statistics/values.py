"""What values come to that are one a prompt: divergences, or differences with a sign.

Reading order within: ``ValueFigures`` is one view's; ``value_figures`` makes those of all views, so
that the texts are resampled once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.errors import InvalidInputError
from forwardcache.statistics.figures import mean_of
from forwardcache.statistics.intervals import Interval, intervals, totals_of
from forwardcache.statistics.nulls import NullComparison, among_nulls
from forwardcache.statistics.resampling import SEED
from forwardcache.statistics.signed import SignedSummary, signed_of
from forwardcache.statistics.spread import Spread, spread_of
from forwardcache.statistics.totals import Float64s, Totals

UNKNOWN = Interval(math.nan, math.nan, 0)
"""Where nobody knows which values are of equal texts."""


class Values(NamedTuple):
    """The values of one view.

    Attributes:
        nats: float64[n], one a prompt; NaN, or None, where there is no finite number.
        texts: What each is of, n names; equal ones count as one text. None where that is unknown:
            there is no interval then, and shares are of prompts.
    """

    nats: ArrayLike | Sequence[float | None]
    texts: Sequence[Hashable] | None = None


@dataclass(frozen=True, slots=True)
class ValueFigures:
    """What the values of one view come to, nats; NaN without any.

    Attributes:
        prompts: Prompts with a finite value; all figures are over them.
        not_finite: Prompts without one.
        spread: Mean with its interval, percentiles and the largest.
        least: The smallest.
        signed: Sizes and shares, of differences that have a sign; None of divergences.
    """

    prompts: int
    not_finite: int
    spread: Spread
    least: float
    signed: SignedSummary | None = None

    @property
    def size(self) -> float:
        """How far the view is: the mean of a divergence, the mean absolute difference otherwise."""
        return self.spread.mean if self.signed is None else self.signed.mean_abs

    @property
    def size_interval(self) -> Interval:
        """Where ``size`` lies."""
        return self.spread.interval if self.signed is None else self.signed.mean_abs_interval

    def as_json(self) -> dict[str, Any]:
        """By name; what is no finite number is None."""
        signed = {} if self.signed is None else self.signed.as_json()
        return {**self.spread.as_json(), **signed}


def value_figures(
    views: Sequence[Values], *, is_signed: bool, seed: int = SEED
) -> list[ValueFigures]:
    """What the values of each view come to.

    Args:
        views: Any number.
        is_signed: Whether values are differences that have a sign, and not divergences.
        seed: Of the resampling; the same values have the same figures, whatever is asked with them.

    Raises:
        InvalidInputError: there are not as many names of texts as values.
    """
    known = [_finite_ones(each) for each in views]
    totals = [_totals(each, is_signed) for each in known]
    asked = [
        total
        for each, of_view in zip(known, totals, strict=True)
        if each.texts is not None
        for total in of_view
    ]
    found = iter(intervals(asked, seed=seed))
    return [
        _figures(
            np.size(np.asarray(view.nats)),
            each.nats,
            of_view,
            [UNKNOWN if each.texts is None else next(found) for _ in of_view],
        )
        for view, each, of_view in zip(views, known, totals, strict=True)
    ]


def place_among(
    one: ValueFigures, nulls: Sequence[ValueFigures], *, floor: float = 0.0
) -> NullComparison | None:
    """Where a view stands among matched nulls, by ``size``.

    Args:
        one: The view's figures.
        nulls: Those of each null, over the same prompts.
        floor: Mean of what noise alone makes, nats: the nulls' mean lies inside of it up to there,
            and where 0 is in the interval of one of them.

    Returns:
        None without nulls, or where a size is no number.
    """
    sizes = [null.size for null in nulls]
    if not sizes or math.isnan(one.size) or any(map(math.isnan, sizes)):
        return None
    is_zero = any(null.size_interval.holds_zero for null in nulls)
    return among_nulls(one.size, sizes, inside_floor=is_zero or mean_of(sizes) <= floor)


class _Finite(NamedTuple):
    nats: Float64s
    texts: list[Hashable] | None


def _finite_ones(view: Values) -> _Finite:
    nats = np.asarray(view.nats, dtype=np.float64)
    if view.texts is not None and nats.shape != (len(view.texts),):
        raise InvalidInputError(
            f"{len(view.texts)} names of texts for values of shape {nats.shape}"
        )
    is_finite = np.isfinite(nats)
    texts = None if view.texts is None else list(compress(view.texts, is_finite))
    return _Finite(nats[is_finite], texts)


def _totals(view: _Finite, is_signed: bool) -> list[Totals]:
    """Of the values, and of their sizes where they have signs."""
    every = [view.nats, np.abs(view.nats)] if is_signed else [view.nats]
    return [totals_of(each, view.texts) for each in every]


def _figures(
    asked: int, nats: Float64s, totals: Sequence[Totals], found: Sequence[Interval]
) -> ValueFigures:
    return ValueFigures(
        prompts=len(nats),
        not_finite=asked - len(nats),
        spread=spread_of(nats, totals[0].mean, found[0]),
        least=float(nats.min()) if len(nats) else math.nan,
        signed=signed_of(totals[0], totals[1], found[0], found[1]) if len(totals) > 1 else None,
    )

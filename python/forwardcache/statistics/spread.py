"""How the values of one figure are spread over positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.statistics.intervals import Interval
from forwardcache.statistics.totals import Float64s

PERCENTILES = {
    **{"p1": 1.0, "p5": 5.0, "p10": 10.0, "p25": 25.0, "median": 50.0},
    **{"p75": 75.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9},
}
"""By field of ``Spread``: which percentile it is."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of one figure, in the figure's unit; NaN without any position.

    Attributes:
        mean: Mean over positions.
        interval: Where that mean lies.
        p1: 1st percentile over positions; so are those that follow.
        p5: 5th.
        p10: 10th.
        p25: 25th.
        median: 50th.
        p75: 75th.
        p90: 90th.
        p95: 95th.
        p99: 99th.
        p999: 99.9th.
        max: The largest.
    """

    mean: float
    interval: Interval
    p1: float
    p5: float
    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    def as_json(self) -> dict[str, Any]:
        """By field; what is no finite number is None."""
        return {
            each.name: self.interval.as_json()
            if each.name == "interval"
            else finite(getattr(self, each.name))
            for each in fields(self)
        }


def spread_of(values: ArrayLike, mean: float, interval: Interval) -> Spread:
    """The spread of ``values``.

    Args:
        values: [n], one a position; infinities are values like others.
        mean: Their mean, from the totals that the interval is of.
        interval: Of that mean.
    """
    known = np.asarray(values, dtype=np.float64)
    found = percentiles(known, tuple(PERCENTILES.values()))
    return Spread(
        mean=mean,
        interval=interval,
        max=float(known.max()) if len(known) else math.nan,
        **dict(zip(PERCENTILES, map(float, found), strict=True)),
    )


def percentiles(values: Float64s, percents: Sequence[float]) -> Float64s:
    """Percentiles by linear interpolation between order statistics at (n-1)·p/100, from 0.

    Args:
        values: [n].
        percents: Each from 0 to 100.

    Returns:
        float64, one each; NaN for no values.

    Source:
        Hyndman and Fan, Sample Quantiles in Statistical Packages (1996), type 7: that of numpy and
        of llama.cpp's table of divergences. ``numpy.percentile`` makes NaN of two infinities.
    """
    if not len(values):
        return np.full(len(percents), math.nan)
    ordered = np.sort(values)
    at = (len(values) - 1) * np.asarray(percents, dtype=np.float64) / 100.0
    low = np.floor(at).astype(np.intp)
    below, above = ordered[low], ordered[np.minimum(low + 1, len(values) - 1)]
    share = at - low
    with np.errstate(invalid="ignore"):
        between = below + share * (above - below)
    found: Float64s = np.where((below == above) | (share == 0.0), below, between)
    return found


def finite(value: float | None) -> float | None:
    """``value`` where it is a finite number, else None: JSON has no other.

    Args:
        value: Any number, or None.
    """
    return float(value) if value is not None and math.isfinite(value) else None

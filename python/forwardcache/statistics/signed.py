"""Differences that have a sign, one a text or item: log-probability of a view - reference.

Their mean may be near 0 where a view moved every text, so ratios of means say nothing; sizes are
means of absolute differences.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.statistics.intervals import Interval, intervals, totals_of
from forwardcache.statistics.resampling import SEED
from forwardcache.statistics.spread import finite
from forwardcache.statistics.totals import Totals


@dataclass(frozen=True, slots=True)
class SignedSummary:
    """What signed differences come to; NaN without any.

    Attributes:
        mean: Mean, nats.
        interval: Where that lies.
        mean_abs: Mean of the absolute differences, nats.
        mean_abs_interval: Where that lies.
        better: Share of distinct texts whose mean difference is above 0.
        worse: Share of those where it is below 0.
    """

    mean: float
    interval: Interval
    mean_abs: float
    mean_abs_interval: Interval
    better: float
    worse: float

    def as_json(self) -> dict[str, Any]:
        """By name; what is no finite number is None."""
        return {
            "mean": finite(self.mean),
            "interval": self.interval.as_json(),
            "mean_abs": finite(self.mean_abs),
            "mean_abs_interval": self.mean_abs_interval.as_json(),
            "better": finite(self.better),
            "worse": finite(self.worse),
        }


def signed_summary(
    differences: ArrayLike, texts: Sequence[Hashable] | None = None, *, seed: int = SEED
) -> SignedSummary:
    """What signed differences come to.

    Args:
        differences: float64[n], nats, view - reference.
        texts: What each is of, n names; equal ones count as one text. None: all differ.
        seed: Of the resampling.

    Raises:
        InvalidInputError: the lengths differ.
    """
    known = np.asarray(differences, dtype=np.float64)
    mean, mean_abs = totals_of(known, texts), totals_of(np.abs(known), texts)
    return signed_of(mean, mean_abs, *intervals([mean, mean_abs], seed=seed))


def signed_of(
    mean: Totals, mean_abs: Totals, interval: Interval, abs_interval: Interval
) -> SignedSummary:
    """What signed differences come to, from their totals.

    Args:
        mean: Of the differences.
        mean_abs: Of their absolute values.
        interval: Of the mean.
        abs_interval: Of the mean of the absolute values.
    """
    return SignedSummary(
        mean.mean,
        interval,
        mean_abs.mean,
        abs_interval,
        better=_share(mean, mean.sums > 0.0),
        worse=_share(mean, mean.sums < 0.0),
    )


def _share(of: Totals, has_it: Any) -> float:
    return float(np.mean(has_it)) if len(of.sums) else math.nan

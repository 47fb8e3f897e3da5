"""Quantiles of a stream in bounded memory, each within half a per cent of the true value.

Values are counted in buckets whose borders grow by a constant factor, as in DDSketch (Masson, Rim
and Lee, VLDB 2019): times between a nanosecond and a day fall into 3,200 buckets.
"""

from __future__ import annotations

import math
from collections import Counter

RELATIVE_ERROR = 0.005

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = math.log(_GROWTH)
_NOT_POSITIVE = -math.inf


class Quantiles:
    """Counts of values by their size."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()
        self._low, self._high = math.inf, -math.inf

    def add(self, value: float) -> None:
        """Count one finite value; all that aren't positive fall into one bucket."""
        bucket = math.ceil(math.log(value) / _LOG_GROWTH) if value > 0 else _NOT_POSITIVE
        self._counts[bucket] += 1
        self._low, self._high = min(self._low, value), max(self._high, value)

    def at(self, share: float) -> float | None:
        """The value that ``share`` of all values don't exceed.

        Args:
            share: 0.5 for the median.

        Returns:
            A value within half a per cent of it; None if nothing was counted.
        """
        if not self._counts:
            return None
        # A nearest rank: of a hundred values the 99th is the 0.99 quantile.
        rank = max(1, math.ceil(share * self._counts.total()))
        for bucket in sorted(self._counts):
            rank -= self._counts[bucket]
            if rank <= 0:
                break
        middle = 0.0 if bucket == _NOT_POSITIVE else _GROWTH ** (bucket - 1) * (1 + RELATIVE_ERROR)
        return min(max(middle, self._low), self._high)

    def include(self, other: Quantiles) -> None:
        """Count all that ``other`` counted."""
        self._counts += other._counts
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

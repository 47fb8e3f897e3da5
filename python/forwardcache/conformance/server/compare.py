"""Distances between two sets of log-probabilities, and when they are rounding.

Servers compute in 16 bits, in batches of changing shape: the same token's log-probability moves by
hundredths of a nat, and by tenths where it is small. A wrong server is off at most tokens. So two
sets differ when their median gap is beyond the tolerance, or a single gap beyond ten times it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from forwardcache.conformance.http.answer import Row

__all__ = ["Gaps", "gaps_of_rows", "gaps_of_values"]

SINGLE = 10.0
"""How many times the tolerance one token alone may be off."""


@dataclass(frozen=True)
class Gaps:
    """Absolute differences, in nats.

    Attributes:
        values: One a pair that was compared.
    """

    values: tuple[float, ...]

    @property
    def typical(self) -> float:
        """The median; 0 where nothing was compared."""
        return median(self.values) if self.values else 0.0

    @property
    def largest(self) -> float:
        """The largest; 0 where nothing was compared."""
        return max(self.values, default=0.0)

    def beyond(self, tolerance: float) -> bool:
        """Whether the two sets differ by more than rounding.

        Args:
            tolerance: Nats by which the median may be off.
        """
        return self.typical > tolerance or self.largest > SINGLE * tolerance

    def __str__(self) -> str:
        return f"a median gap of {self.typical:.4g} and a largest of {self.largest:.4g} nats"


def gaps_of_values(one: Sequence[float | None], other: Sequence[float | None]) -> Gaps:
    """Gaps between values of the same tokens; where either is None nothing is compared.

    Args:
        one: Log-probabilities, nats.
        other: Those to compare with, of as many tokens.
    """
    pairs = zip(one, other, strict=True)
    return Gaps(tuple(_gap(a, b) for a, b in pairs if a is not None and b is not None))


def gaps_of_rows(one: Sequence[Row | None], other: Sequence[Row | None], k: int) -> Gaps:
    """Gaps between candidates of the same places.

    A token that only one row has is compared with the k-th of the other: which of two near-equals
    is among the k is rounding.

    Args:
        one: Rows of candidates.
        other: Rows to compare with, of as many places.
        k: How many candidates both have, not counting the text's own token.
    """
    pairs = zip(one, other, strict=True)
    return Gaps(tuple(gap for a, b in pairs if a and b for gap in _row_gaps(a, b, k)))


def _row_gaps(one: Row, other: Row, k: int) -> Iterable[float]:
    for token in one.keys() & other.keys():
        yield _gap(one[token], other[token])
    for mine, theirs in ((one, other), (other, one)):
        lowest = sorted(theirs.values(), reverse=True)[:k][-1]
        for token in mine.keys() - theirs.keys():
            yield max(0.0, mine[token] - lowest) if math.isfinite(lowest) else 0.0


def _gap(one: float, other: float) -> float:
    if one == other:
        return 0.0
    gap = abs(one - other)
    return gap if not math.isnan(gap) else math.inf

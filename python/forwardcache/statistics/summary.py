"""What the views of a run come to: over all positions, in buckets and in groups of the input.

The mean of a divergence is dominated by undecided positions, so the same figures are given by the
reference's entropy, in quarters of the run's positions, and by how many tokens have been read.
Groups are of items, by any field of the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.errors import InvalidInputError
from forwardcache.statistics.figures import Figures, Sketch, sketch_of, with_intervals
from forwardcache.statistics.positions import Positions
from forwardcache.statistics.resampling import SEED
from forwardcache.statistics.spread import finite, percentiles
from forwardcache.statistics.totals import Float64s

QUARTERS = 4


@dataclass(frozen=True, slots=True)
class Bucket:
    """The figures of the positions within two bounds.

    Attributes:
        low: Lower bound of what the buckets are by: nats of entropy, or tokens read.
        high: Upper bound, which belongs to the bucket; NaN bounds where a run has no positions.
        figures: Of those positions.
    """

    low: float
    high: float
    figures: Figures

    def as_json(self) -> dict[str, Any]:
        """Bounds and figures in one object."""
        return {"low": finite(self.low), "high": finite(self.high), **self.figures.as_json()}


@dataclass(frozen=True, slots=True)
class Summary:
    """What one view comes to.

    Attributes:
        figures: Over all positions that count.
        buckets: By quarters of the run's positions in the reference's entropy, lowest first.
        by_position: By tokens read before the predicted one: 1, 2 to 3, 4 to 7, and so on.
        groups: By value of a field of the input; empty without one.
        left_out: Positions that counted and have a value that is no number: in no figure.
    """

    figures: Figures
    buckets: tuple[Bucket, ...]
    by_position: tuple[Bucket, ...]
    groups: Mapping[str, Figures] = field(default_factory=dict)
    left_out: int = 0


def summaries(
    views: Mapping[str, Positions],
    *,
    groups: Sequence[str] | None = None,
    seed: int = SEED,
) -> dict[str, Summary]:
    """What each view comes to.

    Args:
        views: By view id: its positions.
        groups: The value of a field for each item, by the item's number.
        seed: Of the resampling of texts. The same positions give the same figures, whatever other
            views are asked with them.

    Raises:
        InvalidInputError: an item has no group.
    """
    cuts = entropy_quartiles(list(views.values()))
    plans = {view: _Plan.of(positions, cuts, groups) for view, positions in views.items()}
    sketches = [sketch for plan in plans.values() for sketch in plan.sketches]
    found = iter(with_intervals(sketches, seed=seed))
    return {
        view: plan.summary([next(found) for _ in plan.sketches]) for view, plan in plans.items()
    }


def entropy_quartiles(views: Sequence[Positions]) -> Float64s:
    """Least, lower quartile, median, upper quartile and largest entropy of the reference.

    Args:
        views: Of one run; quartiles are over the positions of all, views of the same ones counted
            once.

    Returns:
        float64[5], nats; NaN without any position.
    """
    distinct: list[NDArray[np.float32]] = []
    for one in views:
        # Views of the same texts have the same entropies, which need no second sorting.
        if not any(np.array_equal(one.entropy_reference, known) for known in distinct):
            distinct.append(one.entropy_reference)
    joined = np.concatenate([np.empty(0), *distinct])
    return percentiles(joined, [0.0, 25.0, 50.0, 75.0, 100.0])


@dataclass(frozen=True, slots=True)
class _Plan:
    """Sketches of one view in the order: all, buckets, by position, groups."""

    sketches: list[Sketch]
    buckets: list[tuple[float, float]]
    ranges: list[tuple[float, float]]
    groups: list[str]
    left_out: int

    @classmethod
    def of(cls, positions: Positions, cuts: Float64s, groups: Sequence[str] | None) -> _Plan:
        of_bucket = np.searchsorted(cuts[1:-1], positions.entropy_reference, side="left")
        # The exponent of 2: bit lengths of 1, 2 to 3, 4 to 7.
        of_range = np.frexp(positions.place.astype(np.float64))[1] - 1
        ranges = range(int(of_range.max(initial=-1)) + 1)
        parts = positions.parted(of_bucket, QUARTERS) + positions.parted(of_range, len(ranges))
        names, of_group = _of_group(positions, groups)
        if names:
            in_groups = positions.parted(of_group, len(names))
            parts += [part.of_present_texts() for part in in_groups]
        return cls(
            [sketch_of(part) for part in (positions, *parts)],
            [(float(low), float(high)) for low, high in itertools.pairwise(cuts)],
            [(2.0**number, 2.0 ** (number + 1) - 1.0) for number in ranges],
            names,
            positions.left_out,
        )

    def summary(self, found: Sequence[Figures]) -> Summary:
        after_buckets = 1 + len(self.buckets)
        after_ranges = after_buckets + len(self.ranges)
        return Summary(
            found[0],
            _buckets(self.buckets, found[1:after_buckets]),
            _buckets(self.ranges, found[after_buckets:after_ranges]),
            dict(zip(self.groups, found[after_ranges:], strict=True)),
            self.left_out,
        )


def _buckets(bounds: Sequence[tuple[float, float]], found: Sequence[Figures]) -> tuple[Bucket, ...]:
    return tuple(Bucket(low, high, one) for (low, high), one in zip(bounds, found, strict=True))


def _of_group(
    positions: Positions, groups: Sequence[str] | None
) -> tuple[list[str], NDArray[np.intp]]:
    """The groups in order of appearance, and the number of each position's."""
    items = int(positions.item.max(initial=-1)) + 1
    if groups is not None and items > len(groups):
        raise InvalidInputError(f"item {items - 1} has no group, there are {len(groups)} of them")
    numbers: dict[str, int] = {}
    of_item = [numbers.setdefault(group, len(numbers)) for group in groups or []]
    if not numbers:
        return [], np.empty(0, dtype=np.intp)
    return list(numbers), np.array(of_item, dtype=np.intp)[positions.item]

"""What workers' counters gain, and the sums of that over all of them."""

from __future__ import annotations

from collections.abc import Mapping

Counters = dict[str, int | float]

# Of all counters the one that is no sum.
_LARGEST = "max_batch_size"


def gained(before: Mapping[str, int | float], after: Mapping[str, int | float]) -> Counters:
    """What counters gained between two looks, as ``BackendStats.to_dict`` gives them."""
    return {**{name: after[name] - before[name] for name in after}, _LARGEST: after[_LARGEST]}


def add_gained(sums: Counters, more: Mapping[str, int | float]) -> None:
    """Adds what one worker's counters gained to what all have gained."""
    for name, each in more.items():
        before = sums.get(name, 0)
        sums[name] = max(before, each) if name == _LARGEST else before + each

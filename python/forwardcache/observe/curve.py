"""How often a cache of another size would have missed, by the events of a trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, Protocol, TypeAlias, get_args

from forwardcache._core import _Curve
from forwardcache._event import TraceLine

Weight: TypeAlias = Literal["count", "seconds", "bytes"]

_BLOCK_EVENTS = 1 << 12


def miss_ratio_curve(
    events: Iterable[TraceLine],
    *,
    sizes: Sequence[int] | None = None,
    weight: Weight = "count",
) -> dict[int, float]:
    """The miss ratio of a least-recently-used cache, by its size.

    Each event is one use of its ``key`` within its ``run``. Failed computations stored nothing
    and are left out, and so are events without a key. Sessions share the cache that is asked
    about, but never a key. Invalidations aren't in a trace: what they cost doesn't show.

    Args:
        events: What :func:`~forwardcache.observe.read_trace` gives, in the order of use. Memory
            grows with the number of distinct keys only.
        sizes: Sizes to answer for. None: 1, and each size in entries at which the ratio changes.
        weight: ``"count"``: sizes are entries, the ratio is misses among uses. ``"seconds"``:
            sizes are entries, the ratio is seconds of computing among those that computing at each
            use would have taken; a use that hit counts with what its key took before, 0 if the
            trace doesn't say. ``"bytes"``: sizes are bytes and have to be given, the ratio is
            misses among uses; each is simulated with the bytes that the trace names (0 where it
            names none), and a value larger than the cache is never kept.

    Returns:
        Miss ratio from 0.0 to 1.0 for each size, ascending; exact for the uses in the trace. Empty
        if ``sizes`` is None and no event has a key.

    Raises:
        ValueError: ``weight`` is none of the three, a size isn't positive, or sizes in bytes were
            not given.

    Source:
        Mattson, Gecsei, Slutz and Traiger, "Evaluation techniques for storage hierarchies", 1970.
    """
    _check(sizes, weight)
    if weight == "bytes":
        return _by_simulation(events, sorted(set(sizes or ())))
    return _by_distance(events, sizes, seconds=weight == "seconds")


def _check(sizes: Sequence[int] | None, weight: str) -> None:
    if weight not in get_args(Weight):
        raise ValueError(f"weight must be one of {', '.join(get_args(Weight))}; got {weight!r}")
    if weight == "bytes" and sizes is None:
        raise ValueError("sizes must be given with weight='bytes'; got None")
    for size in sizes or ():
        if size <= 0:
            raise ValueError(f"sizes must be positive; got {size!r}")


def _counted(curve: _Curve, events: Iterable[TraceLine]) -> _Curve:
    stream = iter(events)
    while block := list(islice(stream, _BLOCK_EVENTS)):
        curve.add(block)
    return curve


def _by_simulation(events: Iterable[TraceLine], sizes: list[int]) -> dict[int, float]:
    curve = _counted(_Curve(sizes), events)
    uses, _ = curve.total()
    misses = (count for count, _ in curve.misses())
    return {size: _ratio(missed, uses) for size, missed in zip(sizes, misses, strict=True)}


def _by_distance(
    events: Iterable[TraceLine], sizes: Sequence[int] | None, *, seconds: bool
) -> dict[int, float]:
    return curve_in_entries(_counted(_Curve(), events), sizes, seconds=seconds)


class StackDistances(Protocol):
    """Uses by their stack distance."""

    def total(self) -> tuple[int, float]:
        """Uses and seconds of all of them."""

    def gains(self) -> list[tuple[int, int, float]]:
        """Sizes in entries, with the uses and seconds that hit from each on and not below."""


def curve_in_entries(
    curve: StackDistances, sizes: Sequence[int] | None, *, seconds: bool
) -> dict[int, float]:
    """The miss ratios of what ``curve`` has counted; ``sizes`` as in :func:`miss_ratio_curve`."""
    which = 2 if seconds else 1
    total = curve.total()[which - 1]
    gains = curve.gains()
    if sizes is None:
        sizes = sorted({1, *(gain[0] for gain in gains)}) if curve.total()[0] else ()
    ratios, hits, at = {}, 0.0, 0
    for size in sorted(set(sizes)):
        while at < len(gains) and gains[at][0] <= size:
            hits += gains[at][which]
            at += 1
        ratios[size] = _ratio(total - hits, total)
    return ratios


def _ratio(missed: float, total: float) -> float:
    # Sums of seconds are rounded; what is left over after all hits may be a hair below nothing.
    return max(0.0, missed / total) if total else 0.0

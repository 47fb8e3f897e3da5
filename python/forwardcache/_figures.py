"""Figures of each op and view, and the report that shows them with what the cache holds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forwardcache._core import BackendStats


@dataclass(frozen=True)
class CallStats:
    """What was done for one op and view, or for several together.

    Attributes:
        hits: Lookups that found a value, waited ones included.
        misses: Lookups that found none.
        failed: Prompts whose computation raised.
        waits: Hits that waited while another thread computed the value.
        wait_s: Time spent in those waits, in seconds.
        compute_s: Time spent in computations, in seconds.
        saved_s: Seconds of computations that hits did not repeat.
        evictions: Entries that had to go for others.
        recomputed: Values computed again after they had been evicted.
        entries: Entries that the cache holds; only in a report.
        bytes: Bytes that they count for, 0 where bytes are not counted; only in a report.
    """

    hits: int = 0
    misses: int = 0
    failed: int = 0
    waits: int = 0
    wait_s: float = 0.0
    compute_s: float = 0.0
    saved_s: float = 0.0
    evictions: int = 0
    recomputed: int = 0
    entries: int = 0
    bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of lookups that found a value; 0.0 without any."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    def __add__(self, other: "CallStats") -> "CallStats":
        """Both together."""
        sums = (getattr(self, each.name) + getattr(other, each.name) for each in fields(self))
        return CallStats(*sums)


@dataclass(frozen=True)
class Report:
    """What an instrumentation has done and what its cache holds; reports add up.

    Attributes:
        stats: The statistics, as they were then.
        calls: The figures of each ``(op, view_id)``.
    """

    stats: "BackendStats"
    calls: Mapping[tuple[str, str], CallStats] = field(default_factory=dict)

    @classmethod
    def of(cls, stats: "BackendStats", held: Iterable[tuple[str, str, int, int]]) -> "Report":
        """The report of statistics and of what a cache holds.

        Args:
            stats: The statistics; kept, not copied.
            held: ``(op, view_id, entries, bytes)`` of each op and view in the cache.

        Returns:
            A report whose ``calls`` have the entries and bytes too.
        """
        calls = dict(stats.calls())
        for op, view_id, entries, size in held:
            before = calls.get((op, view_id), CallStats())
            calls[op, view_id] = before + CallStats(entries=entries, bytes=size)
        return cls(stats, calls)

    def by_op(self) -> dict[str, CallStats]:
        """The figures of each op, over all views."""
        return _grouped(self.calls, lambda call: call[0])

    def by_view(self) -> dict[str, CallStats]:
        """The figures of each view, over all ops."""
        return _grouped(self.calls, lambda call: call[1])

    def __add__(self, other: "Report") -> "Report":
        """The report of both instrumentations together."""
        calls = dict(self.calls)
        for call, figures in other.calls.items():
            calls[call] = calls.get(call, CallStats()) + figures
        return Report(self.stats + other.stats, calls)

    def to_dict(self) -> dict[str, Any]:
        """The report as what JSON has: ``stats``, and in ``calls`` an object an op and view."""
        calls = [
            {"op": op, "view_id": view_id, **asdict(figures)}
            for (op, view_id), figures in self.calls.items()
        ]
        return {"stats": self.stats.to_dict(), "calls": calls}


def _grouped(
    calls: Mapping[tuple[str, str], CallStats], name: Callable[[tuple[str, str]], str]
) -> dict[str, CallStats]:
    groups: dict[str, CallStats] = {}
    for call, figures in calls.items():
        groups[name(call)] = groups.get(name(call), CallStats()) + figures
    return groups

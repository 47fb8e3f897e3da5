"""What a trace comes to: figures for each probe, view and op.

An event is a hit, a miss (it was computed) or failed (the computation raised). A hit that waited
for another thread's computation counts as a hit, its time as waiting. Memory grows with the number
of groups, sessions and threads, not with that of events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple

from forwardcache._event import TraceLine
from forwardcache.observe.quantiles import Quantiles
from forwardcache.observe.workers import WorkerEvents


class Group(NamedTuple):
    """What events are counted together by."""

    probe: str | None
    view_id: str
    op: str


@dataclass(slots=True)
class Figures:
    """Figures of one group.

    Attributes:
        hits: Values that were there.
        misses: Values that were computed.
        failed: Computations that raised.
        waited: Those of the hits that waited for another thread.
        hit_wall_s: Seconds of the hits that didn't wait.
        wait_s: Seconds of those that did.
        miss_wall_s: Seconds of the misses.
        failed_wall_s: Seconds of the failed computations.
        batches: Batches that were computed, where the trace names them.
        batched: Misses in them.
        first_ts: Earliest time, seconds since the epoch; infinite without one.
        last_ts: Latest time.
        sessions: Sessions that took part.
        wall_ms: How long each event took.
    """

    hits: int = 0
    misses: int = 0
    failed: int = 0
    waited: int = 0
    hit_wall_s: float = 0.0
    wait_s: float = 0.0
    miss_wall_s: float = 0.0
    failed_wall_s: float = 0.0
    batches: int = 0
    batched: int = 0
    first_ts: float = inf
    last_ts: float = -inf
    sessions: set[str] = field(default_factory=set)
    wall_ms: Quantiles = field(default_factory=Quantiles)

    @property
    def events(self) -> int:
        """All of them."""
        return self.hits + self.misses + self.failed

    @property
    def hit_rate(self) -> float:
        """Hits among the hits and misses; 0.0 without any."""
        answered = self.hits + self.misses
        return self.hits / answered if answered else 0.0

    @property
    def mean_batch_size(self) -> float | None:
        """Misses a batch; None where the trace names no batch."""
        return self.batched / self.batches if self.batches else None

    def add(self, event: TraceLine) -> None:
        """Count one event, but not its batch."""
        if isfinite(event.ts):
            self.first_ts = min(self.first_ts, event.ts)
            self.last_ts = max(self.last_ts, event.ts)
        if event.run is not None:
            self.sessions.add(event.run)
        wall_s = 0.0
        if isfinite(event.wall_ms):
            self.wall_ms.add(event.wall_ms)
            wall_s = event.wall_ms / 1000
        self._add_outcome(event, wall_s)

    def _add_outcome(self, event: TraceLine, wall_s: float) -> None:
        if event.hit and event.waited:
            self.hits += 1
            self.waited += 1
            self.wait_s += wall_s
        elif event.hit:
            self.hits += 1
            self.hit_wall_s += wall_s
        elif event.error is not None:
            self.failed += 1
            self.failed_wall_s += wall_s
        else:
            self.misses += 1
            self.miss_wall_s += wall_s

    def include(self, other: Figures) -> None:
        """Count all that ``other`` counted."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_ts = min(self.first_ts, other.first_ts)
        self.last_ts = max(self.last_ts, other.last_ts)
        self.sessions |= other.sessions
        self.wall_ms.include(other.wall_ms)

    def as_dict(self) -> dict[str, Any]:
        """All figures, as JSON values; what there is none of is None."""
        return {
            "events": self.events,
            "hits": self.hits,
            "misses": self.misses,
            "hit_rate": self.hit_rate,
            "failed": self.failed,
            "waited": self.waited,
            "hit_wall_s": _known(self.hit_wall_s),
            "miss_wall_s": _known(self.miss_wall_s),
            "failed_wall_s": _known(self.failed_wall_s),
            "wait_s": _known(self.wait_s),
            "wall_ms_p50": self.wall_ms.at(0.5),
            "wall_ms_p99": self.wall_ms.at(0.99),
            "batches": self.batches,
            "mean_batch_size": self.mean_batch_size,
            "runs": len(self.sessions),
            "first_ts": _known(self.first_ts),
            "last_ts": _known(self.last_ts),
        }


_SUMS = (
    "hits",
    "misses",
    "failed",
    "waited",
    "hit_wall_s",
    "wait_s",
    "miss_wall_s",
    "failed_wall_s",
    "batches",
    "batched",
)


def _known(value: float) -> float | None:
    return value if isfinite(value) else None


class _BatchCounter:
    """Counts batches by their first computed event.

    A batch's misses follow each other in their thread, so a thread's last batch is all that has to
    be remembered.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str | None, int | None], int] = {}

    def begins(self, event: TraceLine) -> bool:
        """Whether ``event`` is the first of its batch that was computed."""
        if event.batch is None:
            return False
        thread = (event.run, event.thread)
        is_next = self._last.get(thread) != event.batch
        self._last[thread] = event.batch
        return is_next


def figures_of(events: Iterable[TraceLine]) -> dict[Group, Figures]:
    """The figures of each group, groups by name, those without a probe first."""
    groups: dict[Group, Figures] = {}
    batches = _BatchCounter()
    for event in events:
        group = Group(event.probe, event.view_id, event.op)
        if (figures := groups.get(group)) is None:
            figures = groups[group] = Figures()
        figures.add(event)
        if event.batch is not None and not event.hit and event.error is None:
            figures.batched += 1
            figures.batches += batches.begins(event)
    return dict(sorted(groups.items(), key=lambda item: _by_name(item[0])))


def total_of(groups: Iterable[Figures]) -> Figures:
    """The figures of all groups together."""
    total = Figures()
    for figures in groups:
        total.include(figures)
    return total


@dataclass(frozen=True, slots=True)
class Worker:
    """What the trace of one worker comes to.

    Attributes:
        worker: Its name.
        figures: Of all its events.
        lost: Events that are missing, as its trace says.
        skipped: Lines that can't be used.
    """

    worker: str
    figures: Figures
    lost: int
    skipped: int

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        gaps = {"lost": self.lost, "skipped": self.skipped}
        return {"worker": self.worker, **self.figures.as_dict(), **gaps}


@dataclass(slots=True)
class Summary:
    """What several traces come to.

    Attributes:
        groups: The figures of each group, groups by name, those without a probe first.
        workers: Those of each trace, in their order.
        lost: Events that are missing, as the traces say.
        skipped: Lines that can't be used, by reason.
    """

    groups: dict[Group, Figures] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    lost: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def are_several(self) -> bool:
        """Whether there is more than one trace."""
        return len(self.workers) > 1

    def add(self, one: WorkerEvents) -> None:
        """Count all events of a worker, which are read to their end."""
        groups = figures_of(one.events)
        for group, figures in groups.items():
            self.groups.setdefault(group, Figures()).include(figures)
        total, reader = total_of(groups.values()), one.reader
        skipped = sum(reader.skipped.values())
        self.workers.append(Worker(one.worker, total, reader.lost, skipped))
        self.lost += reader.lost
        self.skipped.update(reader.skipped)


def summary_of(workers: Iterable[WorkerEvents]) -> Summary:
    """What the events of ``workers`` come to, which are read one after the other."""
    summary = Summary()
    for one in workers:
        summary.add(one)
    summary.groups = dict(sorted(summary.groups.items(), key=lambda item: _by_name(item[0])))
    return summary


def _by_name(group: Group) -> tuple[bool, str, str, str]:
    return group.probe is not None, group.probe or "", group.view_id, group.op

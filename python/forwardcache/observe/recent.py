"""What a session is doing now: counts, those of the last seconds, and the slowest computations."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import floor, inf, isfinite, nan

from forwardcache._event import TraceLine

RECENT_S = 10
"""Seconds that a rate is of."""
HISTORY_S = 60
"""Seconds that the history of computed values has."""

_MOST_SECONDS = 4 * HISTORY_S


@dataclass(slots=True)
class Counters:
    """Counts of events.

    Attributes:
        hits: Values that were there; waited ones are among them.
        computed: Values that were computed.
        failed: Computations that raised.
        waited: Hits that waited for another thread.
    """

    hits: int = 0
    computed: int = 0
    failed: int = 0
    waited: int = 0

    @property
    def events(self) -> int:
        """All of them."""
        return self.hits + self.computed + self.failed

    @property
    def hit_rate(self) -> float | None:
        """Hits among hits and computed values; None without any."""
        answered = self.hits + self.computed
        return self.hits / answered if answered else None

    def add(self, event: TraceLine) -> None:
        """Count one event."""
        if event.hit:
            self.hits += 1
            self.waited += event.waited
        elif event.error is None:
            self.computed += 1
        else:
            self.failed += 1

    def include(self, other: Counters) -> None:
        """Count all that ``other`` counted."""
        self.hits += other.hits
        self.computed += other.computed
        self.failed += other.failed
        self.waited += other.waited


class Recent:
    """Figures of a session under way, in bounded memory.

    Args:
        slowest: How many of the slowest computations are kept.
    """

    def __init__(self, slowest: int) -> None:
        self.total = Counters()
        """All events."""
        self.last: TraceLine | None = None
        """The event read last."""
        self._first_ts, self._last_ts = inf, -inf
        self._seconds: dict[int, Counters] = {}
        self._most = slowest
        self._slowest: list[tuple[float, int, TraceLine]] = []
        self._order = count()

    def add(self, event: TraceLine) -> None:
        """Count one event."""
        self.total.add(event)
        self.last = event
        if isfinite(event.ts):
            self._add_to_second(event)
        if not event.hit and isfinite(event.wall_ms) and self._most:
            self._keep_if_slow(event)

    def _add_to_second(self, event: TraceLine) -> None:
        self._first_ts = min(self._first_ts, event.ts)
        self._last_ts = max(self._last_ts, event.ts)
        second = floor(event.ts)
        if (counters := self._seconds.get(second)) is None:
            counters = self._seconds[second] = Counters()
            if len(self._seconds) > _MOST_SECONDS:
                del self._seconds[min(self._seconds)]
        counters.add(event)

    def _keep_if_slow(self, event: TraceLine) -> None:
        # Of two that took equally long the first stays first.
        entry = (event.wall_ms, -next(self._order), event)
        if len(self._slowest) < self._most:
            heapq.heappush(self._slowest, entry)
        else:
            heapq.heappushpop(self._slowest, entry)

    @property
    def last_ts(self) -> float:
        """The latest time of an event, in seconds since the epoch; NaN without one."""
        return self._last_ts if isfinite(self._last_ts) else nan

    def slowest(self) -> Sequence[TraceLine]:
        """The slowest computations, the slowest first."""
        return [event for *_, event in sorted(self._slowest, reverse=True)]

    def lately(self, now: float) -> Counters:
        """The events of the last ``RECENT_S`` seconds, the one that goes on included."""
        return self._between(now, RECENT_S)

    def computed_a_second(self, now: float) -> float:
        """Values computed a second in the last ``RECENT_S`` seconds, or since the first event."""
        since_first = now - self._first_ts
        return self.lately(now).computed / min(RECENT_S, max(1.0, since_first))

    def history(self, now: float) -> Sequence[int]:
        """Values computed in each of the last ``HISTORY_S`` seconds, the oldest first."""
        if not isfinite(now):
            return [0] * HISTORY_S
        seconds = range(floor(now) - HISTORY_S + 1, floor(now) + 1)
        return [self._seconds[at].computed if at in self._seconds else 0 for at in seconds]

    def _between(self, now: float, length_s: int) -> Counters:
        total = Counters()
        if isfinite(now):
            for at in range(floor(now) - length_s + 1, floor(now) + 1):
                if at in self._seconds:
                    total.include(self._seconds[at])
        return total

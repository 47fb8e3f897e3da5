"""When to leave a slow or broken store alone, so that a job never pays for it."""

from __future__ import annotations

import time
from collections.abc import Callable

# Nothing is asked for this many times as long as a call has lost: a fortieth of the job at most.
_REST = 40.0
# The shortest and the longest rest after an error, in seconds; it doubles with each one in a row.
_SHORTEST_S, _LONGEST_S = 2.0, 60.0
# Less than this is no loss: waking a thread up may take as long on a busy machine.
_NO_LOSS_S = 0.001


class Breaker:
    """Open for a while after each call that failed or was slow; closed otherwise.

    Not locked: threads that race may ask once too often, which costs one time-out.

    Args:
        clock: Seconds that only grow.
        servers: How many servers one job asks: each may cost it so much less.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, servers: int = 1) -> None:
        self._clock = clock
        self._rest = _REST * servers
        self._until = -float("inf")
        self._failures = 0

    @property
    def is_open(self) -> bool:
        """Whether the store is to be left alone now."""
        return self._clock() < self._until

    def failed(self, lost_s: float) -> None:
        """A call failed after ``lost_s`` seconds."""
        rest = min(_SHORTEST_S * 2.0**self._failures, _LONGEST_S)
        self._failures = min(self._failures + 1, 16)
        self._open_for(max(rest, self._rest * lost_s))

    def answered(self, lost_s: float) -> None:
        """A call succeeded, ``lost_s`` seconds later than it should have (negative: in time)."""
        self._failures = 0
        if lost_s > _NO_LOSS_S:
            self._open_for(self._rest * lost_s)

    def _open_for(self, seconds: float) -> None:
        self._until = max(self._until, self._clock() + seconds)

"""Which task is given next, which is done again, and which results are ready in order."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from forwardcache.errors import WorkerError

# A task whose workers die this often is itself the reason.
_MOST_LOSSES = 3


class Schedule:
    """Tasks by their numbers, from 0, for workers that take one at a time.

    Whoever is free takes the first task that nobody has, so a slow worker takes fewer. Results that
    are done before an earlier one wait here, and no task is given that is too far ahead of the
    first one that isn't done.

    Args:
        tasks: How many there are.
        ahead: How far beyond the first that isn't done a task may be.
    """

    def __init__(self, tasks: int, *, ahead: int) -> None:
        self._waiting = list(range(tasks))
        heapify(self._waiting)
        self._tasks, self._ahead = tasks, ahead
        self._next = 0
        self._results: dict[int, bytes] = {}
        self._losses: dict[int, int] = {}

    @property
    def is_done(self) -> bool:
        """Whether all results were handed out."""
        return self._next == self._tasks

    def take(self) -> int | None:
        """The task for a worker that is free; None if there is none for now."""
        if not self._waiting or self._waiting[0] >= self._next + self._ahead:
            return None
        return heappop(self._waiting)

    def finish(self, task: int, result: bytes) -> None:
        """A worker is done with ``task``."""
        self._results[task] = result

    def lose(self, task: int) -> None:
        """A worker died over ``task``: another one does it again.

        Raises:
            WorkerError: that happened to this task too often.
        """
        self._losses[task] = self._losses.get(task, 0) + 1
        if self._losses[task] >= _MOST_LOSSES:
            raise WorkerError(
                f"part {task + 1} of {self._tasks}: {_MOST_LOSSES} workers died over it "
                "(was memory too small for it?)"
            )
        heappush(self._waiting, task)

    def ready(self) -> Iterator[bytes]:
        """The results that follow what was handed out, in order."""
        while self._next in self._results:
            yield self._results.pop(self._next)
            self._next += 1

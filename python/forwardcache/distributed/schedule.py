"""Which task is given next, which is done again or by a second worker, which results are ready.

Pure: it knows no worker and no clock. Who asks says which worker is free and what time it is, so
that a simulation with a time of its own runs what a job runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from heapq import heappop, heappush
from typing import Generic, TypeVar

from forwardcache.errors import WorkerError

Task = TypeVar("Task")

# A task whose workers die this often is itself the reason.
_MOST_LOSSES = 3
# A second worker has to be done this much sooner, as a share of what a task takes it.
_GAIN = 0.1
# Who takes this many times as long as he is used to may be stuck.
_LATE = 1.2
# Shorter than any task, so that nobody divides by nothing.
_SHORTEST_S = 1e-6
# In order: how many times as long as a task takes before all would have to wait is soon.
_SOON = 2.0
# Who takes this many times the average is slow: all would wait for its copies.
_SLOW = 1.3
# Tasks differ: one that nobody has copied may take this many times as long as usual.
_UNSURE = 1.3
# How much the last task counts in what a worker is used to.
_NEWEST = 0.2
# How often to look whether somebody has become late: a quarter of what a task takes, within these.
_LOOK_LEAST_S, _LOOK_MOST_S = 0.05, 1.0


class Schedule(Generic[Task]):
    """Tasks, numbered from 0 as they come, for workers that take one at a time.

    Whoever is free takes the first task that nobody has, so a slow worker takes fewer. Where
    nothing is left to give, a free worker takes a second copy of what is expected to be done last,
    if it would be done sooner: the first result counts, so a task must have the same one wherever
    it runs.

    Args:
        tasks: They are read one ahead of what is given out, and kept until they are done.
        ahead: Results come in order, and no task is given that is this far beyond the first that
            isn't done. None: results come as they are done.
        copies: Whether there are second copies.
    """

    def __init__(
        self, tasks: Iterable[Task], *, ahead: int | None = None, copies: bool = False
    ) -> None:
        self._source = iter(tasks)
        self._of = f" of {len(tasks)}" if isinstance(tasks, Sized) else ""
        self._ahead, self._copies = ahead, copies
        self._given = 0
        self._upcoming: list[Task] = []
        self._read()
        self._held: dict[int, Task] = {}
        # By task: who has it, and since when (s).
        self._running: dict[int, dict[int, float]] = {}
        self._lost: list[int] = []
        self._losses: dict[int, int] = {}
        self._next = 0
        self._results: dict[int, tuple[Task, bytes]] = {}
        self._usual: dict[int, float] = {}
        self._average = 0.0

    @property
    def is_done(self) -> bool:
        """Whether all results were handed out."""
        return not (self._upcoming or self._held or self._results)

    def task(self, number: int) -> Task:
        """A task that is not done."""
        return self._held[number]

    def is_open(self, number: int) -> bool:
        """Whether a task that was given out is not done."""
        return number in self._held

    def take(self, worker: int = 0, now_s: float = 0.0) -> int | None:
        """The task for a worker that is free; None if there is none for now.

        Args:
            worker: Its number.
            now_s: The time, in seconds since any moment.
        """
        if (number := self._urgent(worker, now_s)) is None:
            number = self._first_waiting()
        if number is None:
            number = self._last_done(worker, now_s)
        if number is not None:
            self._running.setdefault(number, {})[worker] = now_s
        return number

    def finish(self, number: int, result: bytes, worker: int = 0, now_s: float = 0.0) -> bool:
        """A worker is done with a task; False if another one was before."""
        if (began := self._running.get(number)) is None or worker not in began:
            return False
        self._note(worker, now_s - began[worker])
        del self._running[number]
        self._losses.pop(number, None)
        self._results[number] = self._held.pop(number), result
        return True

    def lose(self, number: int, worker: int = 0) -> None:
        """A worker died over a task: another one does it again, if none has a copy.

        Raises:
            WorkerError: that happened to this task too often.
        """
        self._usual.pop(worker, None)
        if (began := self._running.get(number)) is None or worker not in began:
            return
        self._losses[number] = self._losses.get(number, 0) + 1
        if self._losses[number] >= _MOST_LOSSES:
            raise WorkerError(
                f"part {number + 1}{self._of}: {_MOST_LOSSES} workers died over it "
                "(was memory too small for it?)"
            )
        del began[worker]
        if not began:
            del self._running[number]
            heappush(self._lost, number)

    def ready(self) -> Iterator[tuple[Task, bytes]]:
        """Tasks and results that were not handed out: in order, or as they were done."""
        if self._ahead is None:
            while self._results:
                yield self._results.pop(next(iter(self._results)))
        while self._next in self._results:
            found = self._results.pop(self._next)
            self._next += 1
            yield found

    def quickest_first(self, workers: Iterable[int]) -> Sequence[int]:
        """The workers by how long a task takes them: if the first gets none, no other does."""
        return sorted(workers, key=self._pace)

    @property
    def look_s(self) -> float:
        """Seconds after which a worker that got nothing may ask again, though nothing happened."""
        return min(_LOOK_MOST_S, max(_LOOK_LEAST_S, self._average / 4))

    def _read(self) -> None:
        for task in self._source:
            self._upcoming.append(task)
            break

    def _note(self, worker: int, took_s: float) -> None:
        took_s = max(took_s, _SHORTEST_S)
        usual = self._usual.get(worker, took_s)
        self._usual[worker] = usual + _NEWEST * (took_s - usual)
        average = self._average or took_s
        self._average = average + _NEWEST * (took_s - average)

    def _pace(self, worker: int) -> float:
        """Seconds that a task takes a worker; a new one as long as the last tasks took."""
        return self._usual.get(worker, self._average)

    def _first_waiting(self) -> int | None:
        """The first task that nobody has, if it isn't too far ahead."""
        end = math.inf if self._ahead is None else self._next + self._ahead
        if self._lost and self._lost[0] < end:
            number = heappop(self._lost)
            # Those that run stay in order.
            self._running = dict(sorted([*self._running.items(), (number, {})]))
            return number
        if not self._upcoming or self._given >= end:
            return None
        number = self._given
        self._held[number] = self._upcoming.pop()
        self._given += 1
        self._read()
        return number

    def _urgent(self, worker: int, now_s: float) -> int | None:
        """The first task that would soon keep all others waiting, if this worker gains on it."""
        if self._ahead is None or not self._copies or not self._average:
            return None
        pace = self._pace(worker)
        if pace > _SLOW * self._average and self._given < self._next + self._ahead:
            return None
        a_second = sum(1 / usual_s for usual_s in self._usual.values())
        soon = self._given - self._ahead + _SOON * pace * a_second
        for number, began in self._running.items():
            if number > soon:
                break
            if self._gains(number, worker, now_s, _UNSURE if len(began) == 1 else 1.0):
                return number
        return None

    def _last_done(self, worker: int, now_s: float) -> int | None:
        """The task that is done last, where none is left to give, if this worker gains on it."""
        if not self._copies or not self._average or self._upcoming or self._lost:
            return None
        last, last_end = None, -math.inf
        for number in self._running:
            if (end := self._expected_end(number, now_s)) > last_end:
                last, last_end = number, end
        return last if last is not None and self._gains(last, worker, now_s) else None

    def _gains(self, number: int, worker: int, now_s: float, times: float = 1.0) -> bool:
        """Whether a task is expected to be done sooner if this worker does it too."""
        end = self._expected_end(number, now_s, times)
        is_his = worker in self._running[number]
        return not is_his and end - now_s > self._pace(worker) * (1 + _GAIN)

    def _expected_end(self, number: int, now_s: float, times: float = 1.0) -> float:
        """When a task is expected to be done (s); infinity if all who have it are late.

        Args:
            number: The task.
            now_s: The time.
            times: How many times as long as usual it takes.
        """
        found = math.inf
        for worker, began_s in self._running[number].items():
            pace = self._pace(worker)
            if now_s - began_s <= max(_LATE, times) * pace:
                found = min(found, max(began_s + times * pace, now_s))
        return found

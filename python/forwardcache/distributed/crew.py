"""Workers, whatever they run on: each is given one task at a time, and replaced when it dies."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from forwardcache.distributed.schedule import Schedule, Task
from forwardcache.distributed.wire import answer
from forwardcache.errors import InvalidInputError, WorkerError
from forwardcache.jobs.recall.heard import say_again

_log = logging.getLogger(__name__)

# Deaths that are made up for, for each worker asked for.
_REPLACEMENTS = 3
AHEAD = 8
"""Results that may wait for an earlier one, for each worker."""


@dataclass(eq=False)
class Hired:
    """One worker, as its crew knows it.

    Attributes:
        number: Its number, from 0; one that takes a dead one's place has a new one.
        facts: What it told when it had loaded the model; empty before.
    """

    number: int
    facts: dict[str, Any] = field(default_factory=dict, kw_only=True)


Each = TypeVar("Each", bound=Hired)


class Crew(ABC, Generic[Each]):
    """Workers with one model each.

    Args:
        workers: How many, at least 1.
        options: The options of the worker with a number, as bytes.
        copies: Whether a free worker may do again what another one is late with, where nothing
            else is left to do; not if each forward is to be in a trace once.

    Attributes:
        members: Those that are there; loading or loaded.

    Raises:
        InvalidInputError: ``workers`` is out of range.
    """

    def __init__(
        self, workers: int, options: Callable[[int], bytes], *, copies: bool = False
    ) -> None:
        check_count("workers", workers)
        self._options = options
        self._size = workers
        self._copies = copies
        self._hired = 0
        self.members: list[Each] = []
        # By call: who does it, and which task it is; None for loading the model.
        self._running: dict[Any, tuple[Each, _Given | None]] = {}
        self._idle: dict[int, Each] = {}
        self._said: set[str] = set()

    @property
    @abstractmethod
    def shared_out(self) -> str:
        """How many workers there are, and what each has of the machines, in words."""

    def facts(self) -> dict[str, Any]:
        """What the first worker told that has loaded the model; waits for it.

        Raises:
            WorkerError: more workers died than are made up for.
            ForwardCacheError: a worker can't load the model.
        """
        while not (loaded := [member for member in self.members if member.facts]):
            self._wait(None)
        return loaded[0].facts

    def run(self, method: str, tasks: int, task_of: Callable[[int], bytes]) -> Iterator[bytes]:
        """What the workers' ``method`` gives for each task, in the tasks' order.

        Args:
            method: Its name; takes and gives bytes.
            tasks: How many there are.
            task_of: Makes one from its number; asked when a worker is free for it.

        Raises:
            WorkerError: more workers died than are made up for, or too many over one task.
            ForwardCacheError: a worker can't load the model.
        """
        for _, result in self.stream(method, range(tasks), task_of, ordered=True):
            yield result

    def stream(
        self,
        method: str,
        tasks: Iterable[Task],
        task_of: Callable[[Task], bytes],
        *,
        ordered: bool = False,
    ) -> Iterator[tuple[Task, bytes]]:
        """Each task with what the workers' ``method`` gives for it.

        Args:
            method: Its name; takes and gives bytes.
            tasks: Numbers, or whatever ``task_of`` knows: read one ahead of what is given out, and
                kept until they are done.
            task_of: Makes what the method takes; asked when a worker is free for it, and again
                for another one.
            ordered: Whether results come in the tasks' order (a bounded number of them waits for an
                earlier one), or as they are done.

        Raises:
            WorkerError: more workers died than are made up for, or too many over one task.
            ForwardCacheError: a worker can't load the model.
        """
        ahead = AHEAD * self._size if ordered else None
        schedule = Schedule(tasks, ahead=ahead, copies=self._copies)
        while not schedule.is_done:
            for number in schedule.quickest_first(self._idle):
                if (task := schedule.take(number, time.monotonic())) is None:
                    break
                member = self._idle.pop(number)
                call = self._call(member, method, task_of(schedule.task(task)))
                self._running[call] = member, _Given(schedule, task)
            self._wait(schedule)
            yield from schedule.ready()

    @abstractmethod
    def close(self) -> int:
        """Ends the workers; again it does nothing.

        Returns:
            Events that the workers' traces lack.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _start(self, number: int) -> tuple[Each, Any]:
        """A new worker, and the call that loads its model."""

    @abstractmethod
    def _call(self, member: Each, method: str, data: bytes) -> Any:
        """Has a worker do something; the call, which is done later."""

    @abstractmethod
    def _first_done(self, look_s: float | None = None) -> Any:
        """The call that is done first; None if none is for so long."""

    @abstractmethod
    def _result(self, call: Any) -> bytes | None:
        """What a call that is done gave; None if its worker died."""

    def _why_dead(self, member: Each) -> str:
        """What is known of a death: words that follow "died", with a space before them."""
        return ""

    def _wait(self, schedule: Schedule[Any] | None) -> None:
        """Takes what comes next from any worker."""
        may_copy = schedule is not None and self._copies and self._idle
        first = self._first_done(schedule.look_s if may_copy and schedule else None)
        if first not in self._running:
            return
        member, given = self._running.pop(first)
        result = self._result(first)
        # What an earlier run left undone is nobody's any more.
        is_asked = given is not None and given.schedule is schedule
        if result is None:
            self._replace(member)
            if given is not None and is_asked:
                given.schedule.lose(given.number, member.number)
            return
        self._idle[member.number] = member
        if given is None:
            member.facts = answer(result)
            self._say(member.facts)
        elif is_asked:
            given.schedule.finish(given.number, result, member.number, time.monotonic())

    def _missing_events(self, closed: bytes) -> int:
        """How many events a worker's trace lacks, by what its ``close`` gave."""
        told = answer(closed)
        self._say(told)
        return int(told["missing_events"])

    def _say(self, told: dict[str, Any]) -> None:
        """Says what a worker warned of, unless another one did."""
        new = [each for each in told.get("warnings", ()) if each not in self._said]
        self._said.update(new)
        say_again(new)

    def _hire(self) -> None:
        number, self._hired = self._hired, self._hired + 1
        member, loading = self._start(number)
        self.members.append(member)
        self._running[loading] = member, None

    def _replace(self, member: Each) -> None:
        why = self._why_dead(member)
        self.members.remove(member)
        if self._hired >= self._size * (1 + _REPLACEMENTS):
            raise WorkerError(f"{self._hired} workers were started for {self._size}, and died{why}")
        _log.warning("worker %d died%s; another one takes its place", member.number, why)
        self._hire()

    def _lost_copies(self) -> set[int]:
        """The numbers of those who still do what is done."""
        return {
            member.number
            for member, given in self._running.values()
            if given is not None and given.schedule.is_done
        }


class _Given:
    """A task that a worker has: its number, and whose."""

    __slots__ = ("number", "schedule")

    def __init__(self, schedule: Schedule[Any], number: int) -> None:
        self.schedule, self.number = schedule, number


def check_count(name: str, number: int | None) -> None:
    """Refuses a number that is below 1.

    Raises:
        InvalidInputError: naming it.
    """
    if number is not None and number < 1:
        raise InvalidInputError(f"{name} must be at least 1, got {number}")

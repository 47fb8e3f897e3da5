"""Workers of this process, so that a job of parts takes no time and dies when it is told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from forwardcache.distributed.wire import answer, packed_options
from forwardcache.distributed.worker import Worker
from forwardcache.jobs.options import ModelOptions
from tools.stand_in import StandIn


class Crew:
    """One worker, called by its methods; as of ``distributed.crew.Crew``.

    Args:
        worker: It; with a model of its own if it has none yet.

    Attributes:
        calls: How often each method was called.
        reads_ahead: Whether all tasks are asked for before the first is done.
        dies_after: The call of ``part`` that is the last before the driver dies; None: none is.
    """

    shared_out = "1 worker in this process"

    def __init__(self, worker: Worker | None = None) -> None:
        self._worker = worker or StandIn(packed_options(ModelOptions(model="stand-in")))
        self._facts = answer(self._worker.load()) if worker is None else {}
        self.calls: Counter[str] = Counter()
        self.dies_after: int | None = None
        self.reads_ahead = False

    def facts(self) -> dict[str, Any]:
        return self._facts

    def run(self, method: str, tasks: int, task_of: Callable[[int], bytes]) -> Iterator[bytes]:
        for _, result in self.stream(method, range(tasks), task_of):
            yield result

    def stream(
        self,
        method: str,
        tasks: Iterable[Any],
        task_of: Callable[[Any], bytes],
        *,
        ordered: bool = False,
    ) -> Iterator[tuple[Any, bytes]]:
        # As several workers have tasks at once.
        for task in list(tasks) if self.reads_ahead else tasks:
            if method == "part" and self.calls[method] == self.dies_after:
                raise KeyboardInterrupt
            self.calls[method] += 1
            yield task, getattr(self._worker, method)(task_of(task))

    def close(self) -> int:
        return 0

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        pass

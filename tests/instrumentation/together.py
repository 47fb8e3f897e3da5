"""Tasks that begin at once in threads of their own, and what they wait for."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

LONG = 20.0
INHERITS = bool(getattr(sys.flags, "thread_inherit_context", False))
"""Whether a thread begins in a copy of its starter's context: so on CPython 3.14 without a GIL, and
with one where it is asked for."""


def together(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Results of the tasks, in order; an exception is a result.

    The threads are daemons: a thread that hangs fails the test and doesn't hold up the run.
    """
    start, results = threading.Barrier(len(tasks)), [None] * len(tasks)

    def run(place: int, task: Callable[[], Any]) -> None:
        start.wait(LONG)
        try:
            results[place] = task()
        except BaseException as error:
            results[place] = error  # type: ignore[call-overload]

    numbered = enumerate(tasks)
    threads = [threading.Thread(target=run, args=task, daemon=True) for task in numbered]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive(), "a thread hangs"
    return results


def seen(event: threading.Event) -> None:
    """Waits until the event is set, for a test in which the moment matters.

    Without a GIL, ``Event.wait`` may see it a second late: ``tools/cpython_faults.py late``.
    """
    give_up = time.monotonic() + LONG
    while not event.is_set():
        assert time.monotonic() < give_up, "the event doesn't happen"
        time.sleep(0.0005)

"""Tasks that begin at once in threads of their own, what they wait for, and who waits."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.patience import HANG_S

LONG = HANG_S
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


class Askers:
    """Threads that ask for what another one computes, of which a test needs to know who waits."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def come(self) -> None:
        """This thread asks next."""
        self._threads.append(threading.current_thread())

    def all_wait(self, count: int) -> None:
        """Returns when so many have come, and all but this one wait for what is computed."""
        give_up = time.monotonic() + LONG
        while len(self._threads) < count:
            assert time.monotonic() < give_up, "not all of the threads ask"
            time.sleep(0.0005)
        for thread in self._threads:
            if thread is not threading.current_thread():
                asleep(thread)


def asleep(thread: threading.Thread) -> None:
    """Returns when the thread sleeps: in the cache, where there is nothing else to sleep for.

    One that could run and isn't let to, on a busy machine, does not sleep. One that waits for the
    GIL does, and gets it within a nap or two.
    """
    naps, give_up = 0, time.monotonic() + LONG
    while naps < 10:
        assert time.monotonic() < give_up, "the thread does not wait"
        time.sleep(0.001)
        naps = naps + 1 if _sleeps(thread) else 0


def _sleeps(thread: threading.Thread) -> bool:
    if sys.platform != "linux":
        time.sleep(0.02)
        return True
    status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "S"

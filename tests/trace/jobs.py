"""What the processes of ``fork_server`` do. A job that returns ends its process by ``os._exit``."""

import os
import resource
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from forwardcache import _core
from forwardcache.instrumentation import TraceWriter
from tests.trace import events
from tests.trace.events import Step
from tests.trace.progress import Phase, Progress

MANY = 10**9


def trace(
    path: str,
    progress: str,
    how: str,
    views: Sequence[str],
    steps: int = MANY,
    end: str = "close",
    options: dict[str, Any] | None = None,
) -> None:
    """Traces numbered steps in one thread a view, and ends.

    Args:
        path: The trace.
        progress: Where to say which steps have returned.
        how: How the events are made: a key of ``events.EVENTS_A_STEP``.
        views: One for each thread.
        steps: After so many the first thread ends the process.
        end: ``close``, ``_exit`` or ``abort``: the last two while the other threads go on.
        options: Of the writer.
    """
    _leave_no_core()
    said = Progress(Path(progress))
    opened, step = events.opened(path, how, **(options or {}))
    said.phase = Phase.WORKING
    stop = threading.Event()
    others = [
        threading.Thread(target=_take_steps, args=(step, view, thread, MANY, said, stop))
        for thread, view in enumerate(views)
        if thread > 0
    ]
    for thread in others:
        thread.start()
    _take_steps(step, views[0], 0, steps, said, stop)
    if end != "close":
        _END[end]()
    stop.set()
    for thread in others:
        thread.join()
    said.phase = Phase.CLOSING
    opened.close()
    said.phase = Phase.DONE


def _take_steps(
    step: Step, view: str, thread: int, steps: int, said: Progress, stop: threading.Event
) -> None:
    for number in range(steps):
        step(view, number)
        said.count(thread, number + 1)
        if stop.is_set():
            break


def _exit() -> NoReturn:
    os._exit(0)


_END: dict[str, Callable[[], NoReturn]] = {"_exit": _exit, "abort": os.abort}


def _leave_no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def recover(path: str, progress: str, by: str = "recover") -> None:
    """Completes what dead processes left: ``by`` recovery alone, or by opening the trace."""
    said = Progress(Path(progress))
    said.phase = Phase.WORKING
    if by == "recover":
        _core.recover_trace(path)
    else:
        TraceWriter(path).close()
    said.phase = Phase.DONE

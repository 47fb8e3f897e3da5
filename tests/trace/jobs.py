"""What the processes of ``fork_server`` do. A job that returns ends its process by ``os._exit``."""

import ctypes
import json
import os
import resource
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from forwardcache import _core
from forwardcache.instrumentation import TraceWriter
from tests.trace import events, troubles
from tests.trace.events import Step
from tests.trace.progress import Phase, Progress

MANY = 10**9


def trace(
    *,
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
    leave_no_core()
    said = Progress(Path(progress))
    opened, step = events.opened(path, how, **(options or {}))
    said.phase = Phase.WORKING
    stop = threading.Event()
    others = [
        threading.Thread(
            target=_take_steps,
            args=(step, view, thread),
            kwargs={"steps": MANY, "said": said, "stop": stop},
        )
        for thread, view in enumerate(views)
        if thread > 0
    ]
    for thread in others:
        thread.start()
    _take_steps(step, views[0], 0, steps=steps, said=said, stop=stop)
    if end != "close":
        _END[end]()
    stop.set()
    for thread in others:
        thread.join()
    said.phase = Phase.CLOSING
    opened.close()
    said.phase = Phase.DONE


def _take_steps(
    step: Step, view: str, thread: int, *, steps: int, said: Progress, stop: threading.Event
) -> None:
    for number in range(steps):
        step(view, number)
        said.count(thread, number + 1)
        if stop.is_set():
            break


def _exit() -> NoReturn:
    os._exit(0)


_END: dict[str, Callable[[], NoReturn]] = {"_exit": _exit, "abort": os.abort}


def leave_no_core() -> None:
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


# With the layer of faults (``faults``)


def trace_with_fault(
    *, path: str, fault: dict[str, Any], report: str, steps: int, how: str
) -> None:
    """Traces ``steps`` steps while a call of the system fails, and reports how it went."""
    said: dict[str, Any] = {"refused": None, "lost": 0, "warned": 0}
    shim = armed(Path(path).parent, fault)
    options = {"interval_s": 0.001, "journal_events": 64, "fsync": True}
    try:
        opened, step = events.opened(path, how, **options)
    except OSError as error:
        said["refused"] = [error.errno, str(error)]
    else:
        for number in range(steps):
            step("view", number)
            if number == steps // 2:
                events.writer_of(opened).flush()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            said["lost"] = events.writer_of(opened).close()
        said["warned"] = len(caught)
    report_calls(shim, said, report)


def recover_with_fault(*, path: str, fault: dict[str, Any], report: str) -> None:
    """Recovers while a call of the system fails, and reports how it went."""
    said: dict[str, Any] = {"refused": None}
    shim = armed(Path(path).parent, fault)
    try:
        _core.recover_trace(path)
    except OSError as error:
        said["refused"] = [error.errno, str(error)]
    report_calls(shim, said, report)


def armed(folder: Path, fault: dict[str, Any]) -> ctypes.CDLL:
    shim = ctypes.CDLL(None)
    shim.shim_name.restype = ctypes.c_char_p
    shim.shim_calls.restype = ctypes.c_long
    shim.shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    shim.shim_arm(bytes(folder), fault["call"], fault["error"], fault["lasting"])
    return shim


def report_calls(shim: ctypes.CDLL, said: dict[str, Any], report: str) -> None:
    calls = range(1, shim.shim_calls() + 1)
    said["calls"] = [shim.shim_name(ctypes.c_long(call)).decode() for call in calls]
    shim.shim_disarm()
    Path(report).write_text(json.dumps(said))


# On a disk that is full, gone, or not ours


def trace_in_trouble(*, path: str, report: str, trouble: str, steps: int) -> None:
    """Traces steps around a trouble, and reports how it went.

    Args:
        path: The trace.
        report: Where to report.
        trouble: The name of a function of ``troubles``, applied after half of the steps.
        steps: Steps, of two events each.
    """
    said: dict[str, Any] = {"refused": None, "lost": 0, "lost_so_far": 0, "warned": 0}
    report_file = Path(report).open("w")  # noqa: SIM115 - open before there are limits
    try:
        opened, step = events.opened(path, "call", interval_s=0.001, journal_events=64)
        undo = None
        for number in range(steps):
            if number == steps // 2:
                undo = getattr(troubles, trouble)(Path(path))
            step("view", number)
        events.writer_of(opened).flush()
        said["lost_so_far"] = events.writer_of(opened).lost
        if undo:
            undo()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            said["lost"] = events.writer_of(opened).close()
        said["warned"] = len(caught)
    except OSError as error:
        said["refused"] = [error.errno, str(error)]
    with report_file:
        json.dump(said, report_file)

"""Threads, closings and ends of the interpreter: every event whose call returned is there, once.

``FORWARDCACHE_TRACE_EVENTS`` makes the first test longer. Not checked here: processes
(``test_forks``), kills (``test_kill``).
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forwardcache import _core
from forwardcache.instrumentation import BackendInstrumentation, TraceWriter
from tests import proof
from tests.patience import HANG_S, PATIENCE_S
from tests.trace import events

EVENTS = proof.knob("TRACE_EVENTS", 170_000)
THREADS = 8


def in_threads(count: int, run: Callable[[int], int]) -> list[int]:
    """What ``run(number)`` gives in ``count`` threads that begin together."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> int:
        barrier.wait(HANG_S)
        return run(number)

    with ThreadPoolExecutor(count) as threads:
        begun = [threads.submit(begin, number) for number in range(count)]
        return [done.result(HANG_S) for done in begun]


@pytest.mark.parametrize("how", events.EVENTS_A_STEP)
@pytest.mark.parametrize("journal_events", [128, 32768])
def test_eight_threads_lose_nothing(how: str, journal_events: int, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, how, journal_events=journal_events)
    steps = EVENTS // (THREADS * events.EVENTS_A_STEP[how])

    def take(thread: int) -> int:
        for number in range(steps):
            step(str(thread), number)
        return steps

    in_threads(THREADS, take)
    assert events.writer_of(trace).close() == 0
    lines = events.read_whole_lines(path)
    made = events.assert_exactly(lines, {str(n): steps for n in range(THREADS)}, how)
    assert made == steps * THREADS * events.EVENTS_A_STEP[how]
    assert {line["run"] for line in lines} == {lines[0]["run"]}
    assert len({line["thread"] for line in lines}) == THREADS
    assert sorted(line["seq"] for line in lines) == list(range(made))
    assert events.companions(path) == []
    proof.done["trace events"] += made


def test_what_was_accepted_is_in_the_file_after_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "write", interval_s=60)
    for number in range(3):
        step("view", number)
        events.writer_of(trace).flush()
        assert len(events.read_whole_lines(path)) == number + 1
    trace.close()


def test_an_event_is_in_the_file_after_the_interval(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "write", interval_s=0.05)
    for number in range(3):
        step("view", number)
        give_up = time.monotonic() + PATIENCE_S
        while not path.read_bytes().count(b"\n") > number:
            assert time.monotonic() < give_up, "the event does not come"
            time.sleep(0.005)
        assert len(events.read_whole_lines(path)) == number + 1
    trace.close()


@pytest.mark.parametrize("turn", range(20))
def test_close_during_writes_loses_nothing_accepted(turn: int, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "write", journal_events=256)
    closing = threading.Event()

    def write(thread: int) -> int:
        if thread == 0:
            time.sleep(turn * 1e-4)
            closing.set()
            return trace.close() or 0
        number = 0
        while True:
            step(str(thread), number)
            # A call that returned after the close began may have been swallowed.
            if closing.is_set():
                return number
            number += 1

    _, *returned = in_threads(4, write)
    lines = events.read_whole_lines(path)
    events.assert_exactly(lines, {str(1 + n): steps for n, steps in enumerate(returned)}, "write")
    assert events.companions(path) == []


def test_a_replaced_writer_is_flushed_and_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    inst = BackendInstrumentation()
    inst.trace = old = TraceWriter(first, interval_s=60)
    inst.cached("op", "view", "prompt", 1, int)
    inst.trace = TraceWriter(second, interval_s=60)
    assert [line["hit"] for line in events.read_whole_lines(first)] == [False]
    inst.cached("op", "view", "prompt", 1, int)
    assert old.close() == 0
    inst.close()
    assert [line["hit"] for line in events.read_whole_lines(second)] == [True]


def test_dropping_the_last_reference_completes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "call", interval_s=60)
    step("view", 0)
    del trace, step
    assert len(events.read_whole_lines(path)) == 2
    assert events.companions(path) == []


# Ends of the interpreter


TRACE_100 = """
import os, sys, threading, time
from tests.trace import events
path = sys.argv[1]
trace, step = events.opened(path, "call", interval_s=60, journal_events=1024)
for number in range(100):
    step("view", number)
"""

ENDS = {
    "without close": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise KeyError", 1),
    "os._exit": ("os._exit(4)", 4),
    "a second writer": ("other, _ = events.opened(path + '2', 'write')", 0),
    "a reference cycle": ("cycle = [trace, step]; cycle.append(cycle); del trace, step, cycle", 0),
    "a daemon thread": ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", 0),
}


def ended(path: Path, end: str) -> int:
    program = f"{TRACE_100}{end}\n"
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.run(
        command, timeout=PATIENCE_S, check=False, stderr=subprocess.DEVNULL
    ).returncode


@pytest.mark.parametrize("end", ENDS)
def test_an_end_of_the_process_loses_nothing(end: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    code, status = ENDS[end]
    assert ended(path, code) == status
    if end == "os._exit":
        assert events.companions(path) != []
        assert _core.recover_trace(path)["journals"] == 1
    events.assert_exactly(events.read_whole_lines(path), {"view": 100}, "call")
    assert events.companions(path) == []


def test_daemon_threads_may_still_write_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    program = """
def forever(name):
    number = 0
    while True:
        step(name, number)
        number += 1
for name in "abc":
    threading.Thread(target=forever, args=(name,), daemon=True).start()
time.sleep(0.05)
"""
    for _ in range(5):
        path.unlink(missing_ok=True)
        assert ended(path, program) == 0
        _core.recover_trace(path)
        lines = events.read_whole_lines(path)
        events.assert_no_line_twice(lines)
        numbers = events.numbers_by_view(lines, "call")
        assert numbers["view"] == list(range(200))
        for name in "abc":
            assert numbers[name] == list(range(len(numbers[name])))
        assert events.companions(path) == []


CALLS = {
    "cached": 'inst.cached("op", name, "prompt", number, lambda: number)',
    "batch": 'inst.cached_batch("op", name, ["prompt"], number, lambda missed: [number])',
}


@pytest.mark.parametrize("is_traced", [True, False])
@pytest.mark.parametrize("how", CALLS)
def test_the_process_ends_well_while_daemon_threads_compute(
    how: str, is_traced: bool, tmp_path: Path
) -> None:
    program = f"""
import sys, threading, time
from forwardcache.instrumentation import BackendInstrumentation
inst = BackendInstrumentation(trace_path=sys.argv[1] or None)
def forever(name):
    number = 0
    while True:
        {CALLS[how]}
        number += 1
for name in "abcdefgh":
    threading.Thread(target=forever, args=(name,), daemon=True).start()
time.sleep(0.02)
"""
    path = str(tmp_path / "trace.jsonl") if is_traced else ""
    for _ in range(8):
        command = [sys.executable, "-c", program, path]
        done = subprocess.run(
            command, timeout=PATIENCE_S, check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")

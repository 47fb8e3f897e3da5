"""Several processes and one trace: forks, ``multiprocessing``, workers of a ``DataLoader``.

A child traces to its parent's path under a run of its own, never repeats the parent's events, and
never hangs, whatever the parent's threads were doing at the fork. Not checked here: kills of
several processes (``test_kill``), network file systems.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest

from forwardcache import _core
from forwardcache.instrumentation import BackendInstrumentation, TraceEvent, TraceWriter
from tests import proof
from tests.patience import HANG_S, PATIENCE_S
from tests.trace import events
from tests.trace.events import Step
from tests.trace.fork_server import ROOT, servers
from tests.trace.progress import Progress

FORKS = proof.knob("FORKS", 20)
STEPS = 50
PLENTY = 20_000
"""Steps after which a thread that traces beside the forks goes on slowly: without a GIL, three of
them write millions of lines while a busy machine gets to the forks, and all are read back."""


def wait_for_child(child: int, timeout_s: float = HANG_S) -> int:
    """The exit code of a child, which is killed if it hangs."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def take_steps(step: Step, view: str, steps: int = STEPS) -> None:
    for number in range(steps):
        step(view, number)


def check(path: Path, returned: dict[str, int], how: str) -> list[events.Line]:
    """Recovers and checks; no process of the path is alive."""
    _core.recover_trace(path)
    lines = events.read_whole_lines(path)
    events.assert_exactly(lines, returned, how)
    assert events.companions(path) == []
    return lines


# Forks


# The child never returns from here; Python 3.12 and newer warn of a fork beside threads.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", events.EVENTS_A_STEP)
@pytest.mark.parametrize("child_ends", ["close", "leave"])
def test_forks_while_other_threads_trace(how: str, child_ends: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, how, interval_s=0.001, journal_events=256)
    stop = threading.Event()
    returned = {f"thread {number}": 0 for number in range(3)}

    def trace_on(view: str) -> None:
        while not stop.is_set():
            step(view, returned[view])
            returned[view] += 1
            if returned[view] > PLENTY:
                time.sleep(0.001)

    threads = [threading.Thread(target=trace_on, args=(view,)) for view in returned]
    for thread in threads:
        thread.start()
    try:
        for number in range(FORKS):
            time.sleep(0.002)
            fork_and_trace(trace, how, f"child {number}", child_ends)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    trace.close()
    children = {f"child {number}": STEPS for number in range(FORKS)}
    lines = check(path, {**returned, **children}, how)
    runs = {line["run"]: line["view_id"].split()[0] for line in lines}
    assert len(runs) == 1 + FORKS, "each child has a run of its own"
    assert sorted(runs.values()) == ["child"] * FORKS + ["thread"]
    proof.done["forks"] += FORKS


# A ``TraceEvent`` whose ``__init__`` reads no variable that the parent's threads read too.
ChildEvent = make_dataclass(
    "ChildEvent", [(field.name, field.type) for field in fields(TraceEvent)]
)


def fork_and_trace(trace: events.Trace, how: str, view: str, ends: str) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # Nothing that the parent's threads use but the trace: `tools/cpython_faults.py fork`.
            take_steps(events.stepping(trace, how, ChildEvent), view)
            if ends == "close":
                trace.close()
            status = 0
        finally:
            os._exit(status)
    assert wait_for_child(child) == 0


def in_a_process(program: str, path: Path) -> None:
    """Runs a program to the interpreter's very end, and that of all that it has forked."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, str(path)]
    # Who has its standard output is there.
    subprocess.run(command, cwd=ROOT, timeout=PATIENCE_S, check=True, stdout=subprocess.PIPE)


FORK_AND_EXIT = """
import os, sys
from tests.trace import events
trace, step = events.opened(sys.argv[1], "call", interval_s=60)
for number in range(50):
    step("parent", number)
child = os.fork()
view = "parent" if child else "child"
if child and {parent_dies}:
    os._exit(0)
for number in range(50 if child else 0, 100 if child else 50):
    step(view, number)
if child:
    assert os.waitpid(child, 0)[1] == 0
elif {grandchild}:
    child = os.fork()
    for number in range(50):
        step("grandchild" if child == 0 else "brother", number)
    if child:
        assert os.waitpid(child, 0)[1] == 0
"""


def test_parent_and_child_end_without_close(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    in_a_process(FORK_AND_EXIT.format(parent_dies=False, grandchild=False), path)
    assert events.companions(path) == [], "both ended normally"
    check(path, {"parent": 100, "child": 50}, "call")


def test_a_child_of_a_child_traces_too(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    in_a_process(FORK_AND_EXIT.format(parent_dies=False, grandchild=True), path)
    returned = {"parent": 100, "child": 50, "brother": 50, "grandchild": 50}
    lines = check(path, returned, "call")
    assert len({line["run"] for line in lines}) == 3


def test_a_parent_that_dies_leaves_the_child_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    in_a_process(FORK_AND_EXIT.format(parent_dies=True, grandchild=False), path)
    # It has closed its standard output, and is about to let go of its journal.
    give_up = time.monotonic() + PATIENCE_S
    while _core.recover_trace(path)["alive"]:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    check(path, {"parent": 50, "child": 50}, "call")


def test_a_child_that_never_traces_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "call", interval_s=60)
    take_steps(step, "parent")
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert wait_for_child(child) == 0
    trace.close()
    assert len({line["run"] for line in check(path, {"parent": STEPS}, "call")}) == 1


# multiprocessing


def work(path: str, view: str) -> None:
    """A worker with a trace of its own."""
    trace, step = events.opened(path, "batch")
    take_steps(step, view)
    trace.close()


def work_and_leave(path: str, view: str) -> None:
    """A worker that doesn't close: ``multiprocessing`` ends it by ``os._exit``."""
    _trace, step = events.opened(path, "batch", interval_s=60)
    take_steps(step, view)
    LEFT.append(step)


LEFT: list[Step] = []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("worker", [work, work_and_leave])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_share_a_path(method: str, worker: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "batch")
    context: Any = multiprocessing.get_context(method)
    workers = [context.Process(target=worker, args=(str(path), f"w{n}")) for n in range(3)]
    for process in workers:
        process.start()
    take_steps(step, "parent")
    for process in workers:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    trace.close()
    check(path, {"parent": STEPS, **{f"w{number}": STEPS for number in range(3)}}, "batch")


# DataLoader


DATA_LOADER = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from forwardcache.instrumentation import BackendInstrumentation

class Prompts(Dataset):
    def __init__(self, inst):
        self.inst = inst
    def __len__(self):
        return 40
    def __getitem__(self, index):
        return self.inst.cached("op", f"item {index}", "prompt", 0, lambda: index)

inst = BackendInstrumentation(trace_path=sys.argv[1])
inst.cached("op", "before", "prompt", 0, int)
for epoch in range(2):
    loader = DataLoader(Prompts(inst), batch_size=4, num_workers=2, multiprocessing_context="fork")
    items = [int(item) for batch in loader for item in batch]
    assert items == list(range(40)), items
inst.cached("op", "after", "prompt", 0, int)
inst.close()
"""


def test_workers_of_a_data_loader_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    in_a_process(DATA_LOADER, path)
    _core.recover_trace(path)
    lines = events.read_whole_lines(path)
    events.assert_no_line_twice(lines)
    events.assert_in_order(lines)
    views = sorted(line["view_id"] for line in lines)
    assert views == sorted(
        ["before", "after", *(f"item {n}" for n in range(40)), *(f"item {n}" for n in range(40))]
    )
    assert len({line["run"] for line in lines}) == 5, "the parent and two workers an epoch"
    assert events.companions(path) == []


# Several processes


def test_four_processes_append_to_one_path(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    processes = range(4)
    with servers(len(processes)) as players:
        for number, player in enumerate(players):
            player.start(
                "trace",
                path=path,
                progress=tmp_path / f"progress {number}",
                how="call",
                views=[f"{number} {thread}" for thread in range(2)],
                steps=5_000,
                options={"interval_s": 0.001, "journal_events": 1024},
            )
        assert [player.wait() for player in players] == [0] * len(players)
    returned: dict[str, int] = {}
    for number in processes:
        with Progress(tmp_path / f"progress {number}") as said:
            returned |= {f"{number} {thread}": said.returned(thread) for thread in range(2)}
    assert events.companions(path) == [], "all of them closed"
    check(path, returned, "call")


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace, step = events.opened(path, "call", interval_s=60)
    take_steps(step, "mine")
    program = (
        "import sys; from forwardcache import _core; from forwardcache.instrumentation import *;"
        "found = _core.recover_trace(sys.argv[1]);"
        "assert (found['alive'], found['recovered']) == (1, 0), found;"
        "TraceWriter(sys.argv[1]).close()"
    )
    in_a_process(program, path)
    # The file itself may have lines by now: this process writes at the latest after an interval,
    # and earlier if its thread was between two looks when the first event came.
    assert len(events.companions(path)) == 1
    take_steps(step, "later")
    trace.close()
    check(path, {"mine": STEPS, "later": STEPS}, "call")


@pytest.fixture
def two_writers(tmp_path: Path) -> Iterator[tuple[Path, TraceWriter, BackendInstrumentation]]:
    path = tmp_path / "trace.jsonl"
    writer, inst = TraceWriter(path), BackendInstrumentation(trace_path=path)
    yield path, writer, inst
    inst.close()
    writer.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_writers_of_a_path_have_one_run_in_a_child_too(
    two_writers: tuple[Path, TraceWriter, BackendInstrumentation],
) -> None:
    path, writer, inst = two_writers
    write = events.writing(writer)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            write("child", 0)
            inst.cached("op", "child", "prompt", 1, int)
            writer.close()
            inst.cached("op", "child", "prompt", 2, int)
            inst.close()
            status = 0
        finally:
            os._exit(status)
    assert wait_for_child(child) == 0
    lines = events.read_whole_lines(path)
    assert [line["top_k"] for line in lines] == [0, 1, 2]
    assert len({line["run"] for line in lines}) == 1

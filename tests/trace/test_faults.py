"""Whatever call of the system fails, scoring goes on and every event is there or counted as lost.

Each call that the writer, or a recovery, makes in its folder fails once in each way. Not checked
here: a disk that is really full and folders that are really gone (``test_disk``).
"""

import errno
import shutil
from pathlib import Path

import pytest

from tests import proof
from tests.instrumentation.doubles import strict_loads
from tests.trace import events, faults
from tests.trace.faults import Fault
from tests.trace.fork_server import KILLED, ForkServer
from tests.trace.progress import Phase, Progress

STEPS, HOW = proof.knob("FAULT_STEPS", 25), "call"
EVENTS = STEPS * events.EVENTS_A_STEP[HOW]
WAYS = [*((error, False) for error in faults.ONCE), *((error, True) for error in faults.LASTING)]
MORE_CALLS = 6
"""The thread may write in more blocks than it did in the run that was counted."""


def name_of(way: tuple[int, bool]) -> str:
    return str(Fault(1, *way)).removesuffix(" call 1")


@pytest.fixture(scope="module")
def calls_of_a_run(faulty: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> int:
    path = tmp_path_factory.mktemp("counted") / "trace.jsonl"
    said = faults.run(faulty, "trace_with_fault", path, Fault(), steps=STEPS, how=HOW)
    expected = {"open", "fcntl", "fallocate", "mmap", "pwrite", "write", "fdatasync", "unlink"}
    assert expected <= set(said["calls"]), "the layer doesn't see the writer's calls"
    return len(said["calls"]) + MORE_CALLS


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_a_fault_comes_out_of_no_call_and_loses_nothing_uncounted(
    way: tuple[int, bool],
    faulty: ForkServer,
    server: ForkServer,
    calls_of_a_run: int,
    tmp_path: Path,
) -> None:
    refused = 0
    for call in range(1, calls_of_a_run + 1):
        fault = Fault(call, *way)
        path = tmp_path / str(call) / "trace.jsonl"
        path.parent.mkdir()
        said = faults.run(faulty, "trace_with_fault", path, fault, steps=STEPS, how=HOW)
        proof.done["fault points"] += len(said["calls"]) >= call
        if said["refused"]:
            refused += 1
            number, text = said["refused"]
            assert number == fault.error
            assert str(path) in text
            assert events.companions(path) == []
            continue
        check_lines(path, said["lost"], server, fault)
        assert bool(said["lost"]) == bool(said["warned"]), "a loss is told by one warning"
    assert refused <= 2, "only the folder and the file have to be had"


def check_lines(path: Path, lost: int, server: ForkServer, fault: Fault) -> None:
    """Before and after a recovery; what the file doesn't have may be in the journal still."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1].decode("ascii").splitlines()
    before = [strict_loads(line) for line in whole]
    server.run("recover", path=path, progress=path.with_name("recovered"))
    after = events.read_whole_lines(path)
    try:
        faults.assert_all_there_but(lost, before, EVENTS, HOW)
        assert len(events.events_of(before)) == EVENTS - lost, "close() counts what isn't there"
        faults.assert_all_there_but(lost, after, EVENTS, HOW)
        assert events.companions(path) == []
    except AssertionError as error:
        error.add_note(str(fault))
        raise


# Recovery


@pytest.fixture(scope="module")
def dead(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed process left: a trace with a torn last line, and a journal."""
    path = tmp_path_factory.mktemp("dead") / "trace.jsonl"
    progress = path.with_name("progress")
    server.start(
        "trace", path=path, progress=progress, how=HOW, views=["view"], options={"interval_s": 60}
    )
    with Progress(progress) as said:
        said.wait_for(Phase.WORKING)
        while said.returned(0) < STEPS:
            pass
    assert server.kill() == KILLED
    [journal] = events.companions(path)
    path.write_bytes(b'{"ts": 1.5, "probe')
    assert path.with_name(journal).stat().st_size > 0
    return path


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_a_fault_in_a_recovery_loses_and_doubles_nothing(
    way: tuple[int, bool], faulty: ForkServer, server: ForkServer, dead: Path, tmp_path: Path
) -> None:
    path = tmp_path / "0" / "trace.jsonl"
    copy_of(dead, path)
    said = faults.run(faulty, "recover_with_fault", path, Fault())
    assert {"open", "fcntl", "pwrite", "write", "unlink"} <= set(said["calls"])
    for call in range(1, len(said["calls"]) + 1):
        path = tmp_path / str(call) / "trace.jsonl"
        copy_of(dead, path)
        said = faults.run(faulty, "recover_with_fault", path, Fault(call, *way))
        proof.done["fault points"] += 1
        if said["refused"]:
            assert said["refused"][0] in (way[0], errno.ENOSPC)
        server.run("recover", path=path, progress=path.with_name("recovered"))
        torn, *lines = path.read_bytes().decode("ascii").splitlines()
        assert torn == '{"ts": 1.5, "probe'
        recovered = [strict_loads(line) for line in lines]
        least = events.assert_exactly(recovered, {"view": returned_of(dead)}, HOW)
        assert least >= EVENTS
        assert events.companions(path) == []


def copy_of(dead: Path, path: Path) -> None:
    shutil.copytree(dead.parent, path.parent)


def returned_of(dead: Path) -> int:
    with Progress(dead.with_name("progress")) as said:
        return said.returned(0)

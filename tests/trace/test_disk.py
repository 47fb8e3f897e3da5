"""A disk that is full, a folder that is gone or takes no file: scoring goes on, losses are counted.

A full disk is a limit on the size of files, and where one can be mounted a file system of 1 MB. Not
checked here: network file systems, loss of power.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forwardcache.instrumentation import BackendInstrumentation, TraceWriter
from tests.instrumentation.doubles import strict_loads
from tests.patience import PATIENCE_S
from tests.trace import events, faults
from tests.trace.fork_server import ForkServer

STEPS = 1_000
EVENTS = 2 * STEPS


def in_trouble(server: ForkServer, path: Path, trouble: str, steps: int = STEPS) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        server.run("trace_in_trouble", path=path, report=report, trouble=trouble, steps=steps)
        return json.loads(report.read_text())


def whole_lines(path: Path) -> list[events.Line]:
    """All lines but a last one that isn't whole."""
    text = path.read_bytes()
    lines = text[: text.rfind(b"\n") + 1].decode("ascii").splitlines()
    return [strict_loads(line) for line in lines]


# Full


def test_a_limit_that_is_lifted_costs_what_was_counted(server: ForkServer, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    said = in_trouble(server, path, "no_file_may_grow")
    assert said["refused"] is None
    lines = events.read_whole_lines(path)
    faults.assert_all_there_but(said["lost"], lines, EVENTS, "call")
    assert 0 < said["lost"] == said["lost_so_far"]
    assert events.reported_losses(lines) == said["lost"], "a line says so once there is room"
    assert said["warned"] == 1
    assert events.companions(path) == []


def test_a_limit_that_stays_leaves_the_rest_in_the_journal(
    server: ForkServer, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    said = in_trouble(server, path, "no_file_may_grow_again")
    assert said["refused"] is None
    faults.assert_all_there_but(said["lost"], whole_lines(path), EVENTS, "call")
    assert said["lost"] >= said["lost_so_far"] > 0
    server.run("recover", path=path, progress=tmp_path / "progress")
    lines = events.read_whole_lines(path)
    faults.assert_all_there_but(said["lost_so_far"], lines, EVENTS, "call")
    assert events.reported_losses(lines) == said["lost_so_far"]


def mounted(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        if not mounted(Path(folder)):
            return False
        subprocess.run(["umount", folder], check=True)
        return True


if can_mount():

    @pytest.fixture
    def small_disk(tmp_path: Path) -> Iterator[Path]:
        """A file system of 1 MB."""
        folder = tmp_path / "small"
        folder.mkdir()
        assert mounted(folder)
        yield folder
        subprocess.run(["umount", folder], check=True)

    @pytest.mark.parametrize("trouble", ["the_disk_is_full", "the_disk_stays_full"])
    def test_a_full_disk_costs_what_was_counted(
        server: ForkServer, small_disk: Path, trouble: str
    ) -> None:
        path = small_disk / "trace.jsonl"
        said = in_trouble(server, path, trouble)
        assert said["refused"] is None
        assert said["lost"] > 0
        faults.assert_all_there_but(said["lost"], whole_lines(path), EVENTS, "call")
        (small_disk / "filler").unlink(missing_ok=True)
        server.run("recover", path=path, progress=small_disk.with_name("progress"))
        lines = events.read_whole_lines(path)
        faults.assert_all_there_but(said["lost_so_far"], lines, EVENTS, "call")
        assert events.reported_losses(lines) == said["lost_so_far"]
        assert events.companions(path) == []

    def test_a_disk_without_room_for_a_journal_is_written_directly(
        server: ForkServer, small_disk: Path
    ) -> None:
        path = small_disk / "trace.jsonl"
        inst = BackendInstrumentation(trace_path=path)
        assert events.companions(path) == [], "32768 events don't fit into 1 MB"
        inst.cached("op", "view", "prompt", 8, int)
        assert len(events.read_whole_lines(path)) == 1
        inst.close()


# Gone, or not ours


@pytest.mark.parametrize("trouble", ["the_folder_is_gone", "the_file_is_gone"])
def test_what_comes_after_a_removal_is_there(
    server: ForkServer, tmp_path: Path, trouble: str
) -> None:
    path = tmp_path / "folder" / "trace.jsonl"
    said = in_trouble(server, path, trouble, steps=20)
    assert said["refused"] is None
    numbers = events.numbers_by_view(whole_lines(path) if path.exists() else [], "call")
    missing = set(range(20, 40)) - set(numbers.get("view", []))
    assert len(missing) <= said["lost"]


@pytest.fixture
def everybodys_folder() -> Iterator[Path]:
    """A folder that a process without rights can reach; the tests' own is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        Path(folder).chmod(0o777)


def without_rights(path: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program on ``path`` in a process that may do only what all may."""
    drop = "import os; os.getuid() == 0 and os.setuid(65534);"
    # Without rights the interpreter's own files may be out of reach.
    imports = "import pathlib, sys; from forwardcache.instrumentation import *; path = sys.argv[1];"
    command = [sys.executable, "-c", f"{imports} {drop} {program}", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_folder_that_takes_no_new_file_is_a_clear_error(everybodys_folder: Path) -> None:
    everybodys_folder.chmod(0o555)
    done = without_rights(everybodys_folder / "trace.jsonl", "TraceWriter(path)")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("PermissionError: [Errno 13]")
    assert str(everybodys_folder / "trace.jsonl") in done.stderr.splitlines()[-1]


def test_a_file_that_may_not_be_written_is_a_clear_error(everybodys_folder: Path) -> None:
    path = everybodys_folder / "trace.jsonl"
    path.touch(0o444)
    done = without_rights(path, "BackendInstrumentation(trace_path=path)")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("PermissionError: [Errno 13]")
    assert path.read_bytes() == b""


def test_a_file_in_a_folder_that_takes_no_new_file_is_written(everybodys_folder: Path) -> None:
    path = everybodys_folder / "trace.jsonl"
    path.touch()
    path.chmod(0o666)
    everybodys_folder.chmod(0o555)
    program = (
        "inst = BackendInstrumentation(trace_path=path); inst.cached('op', 'view', 'p', 8, int)"
    )
    done = without_rights(path, f"{program}; assert inst.trace.close() == 0")
    assert done.returncode == 0, done.stderr
    assert len(events.read_whole_lines(path)) == 1


def test_no_descriptor_left_is_a_clear_error(tmp_path: Path) -> None:
    program = """
import os, sys
from forwardcache.instrumentation import TraceWriter
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    TraceWriter(sys.argv[1])
except OSError as error:
    assert (error.errno, error.filename) == (24, sys.argv[1]), error
else:
    raise AssertionError("it was opened")
"""
    command = [sys.executable, "-c", program, str(tmp_path / "trace.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_a_path_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "trace.jsonl", tmp_path / ("n" * 300)):
        with pytest.raises(OSError, match=str(path)) as raised:
            TraceWriter(path)
        assert raised.value.errno
    with pytest.raises(IsADirectoryError):
        TraceWriter(tmp_path)

"""Claims: one driver at a time writes to a folder, on a disk and on an object store; who it is is
said; the lock of one that died is passed, also by --force where nobody knows; where there can be no
lock, that is said.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fsspec.core import url_to_fs

from forwardcache.distributed.parts import lock
from forwardcache.distributed.parts.folder import LocalFolder, PartsFolder
from forwardcache.distributed.parts.lock import locked
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.errors import InvalidInputError

HOLDING = """
import fcntl, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_driver_is_refused_and_told_of_the_first(folder: PartsFolder) -> None:
    with (
        locked(folder, take_over=False),
        pytest.raises(InvalidInputError, match=f"another run writes .*process {os.getpid()} on "),
        locked(folder, take_over=True),
    ):
        pass
    assert folder.top() == []
    with locked(folder, take_over=False):
        pass


def test_the_lock_of_a_killed_driver_is_passed(folder: PartsFolder, tmp_path: Path) -> None:
    on_disk = isinstance(folder, LocalFolder)
    path = folder.root / "_lock" if isinstance(folder, LocalFolder) else tmp_path / "unused"
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        holder = {"host": socket.gethostname(), "pid": other.pid}
        content = json.dumps({**holder, "started": lock._started(other.pid)}).encode()
        if on_disk:
            path.write_bytes(content)
        else:
            folder.put("_lock", content)
        with pytest.raises(InvalidInputError, match=f"process {other.pid} "):
            locked(folder, take_over=True).__enter__()
        other.send_signal(signal.SIGKILL)
    assert folder.top() == ["_lock"]
    with locked(folder, take_over=False), pytest.raises(InvalidInputError, match="another run"):
        locked(folder, take_over=False).__enter__()
    assert folder.top() == []


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest) -> PartsFolder:
    return open_folder(f"{s3}/{request.node.name}")


def test_a_lock_of_another_machine_is_passed_by_force_alone(bucket: PartsFolder) -> None:
    bucket.put("_lock", json.dumps({"host": "elsewhere", "pid": 1, "since": "then"}).encode())
    with pytest.raises(InvalidInputError, match=r"process 1 on elsewhere, since then.*--force"):
        locked(bucket, take_over=False).__enter__()
    with locked(bucket, take_over=True):
        assert bucket.top() == ["_lock", "_lock.1"]
        with pytest.raises(InvalidInputError, match=f"process {os.getpid()} "):
            locked(bucket, take_over=True).__enter__()
    assert bucket.top() == []


def test_the_lock_of_another_client_is_seen_at_once(bucket: PartsFolder) -> None:
    bucket.put("_lock", b"{}")
    assert bucket.top() == ["_lock"]
    client, root = url_to_fs(bucket.address, skip_instance_cache=True)
    client.pipe_file(f"{root}/_lock.1", b"{}")
    assert bucket.top() == ["_lock", "_lock.1"]


def test_of_two_that_pass_a_lock_at_once_one_has_it(
    bucket: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("_lock", json.dumps({"host": "elsewhere", "pid": 1}).encode())
    check = lock._check_passable
    others: list[AbstractContextManager[None]] = []

    def while_another_passes(*arguments: object, **keywords: object) -> None:
        check(*arguments, **keywords)  # type: ignore[arg-type]
        if not others:
            others.append(locked(bucket, take_over=True))
            others[0].__enter__()

    monkeypatch.setattr(lock, "_check_passable", while_another_passes)
    with pytest.raises(InvalidInputError, match="another run writes"):
        locked(bucket, take_over=True).__enter__()
    assert bucket.top() == ["_lock", "_lock.1"]
    others[0].__exit__(None, None, None)
    assert bucket.top() == []


def test_where_the_passed_one_ends_just_then_the_next_has_the_lock(
    bucket: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("_lock", json.dumps({"host": "elsewhere", "pid": 1}).encode())
    check = lock._check_passable
    others: list[AbstractContextManager[None]] = []

    def while_others_come_and_go(*arguments: object, **keywords: object) -> None:
        check(*arguments, **keywords)  # type: ignore[arg-type]
        if not others:
            bucket.remove("_lock")
            others.append(locked(bucket, take_over=False))
            others[0].__enter__()

    monkeypatch.setattr(lock, "_check_passable", while_others_come_and_go)
    with pytest.raises(InvalidInputError, match=f"process {os.getpid()} "):
        locked(bucket, take_over=True).__enter__()
    assert bucket.top() == ["_lock"]
    others[0].__exit__(None, None, None)
    assert bucket.top() == []


@pytest.fixture
def away(request: pytest.FixtureRequest) -> PartsFolder:
    """Where a file that only one can create stands for a lock, in memory."""
    found = open_folder(f"memory://{request.node.name}")
    found.excludes = True
    return found


def test_the_lock_of_a_process_whose_number_another_one_has_is_passed(away: PartsFolder) -> None:
    here: dict[str, object] = {"host": socket.gethostname(), "pid": os.getpid()}
    away.put("_lock", json.dumps({**here, "started": "1"}).encode())
    with locked(away, take_over=False):
        assert away.top() == ["_lock", "_lock.1"]
    # Where nobody knows when it began, it may be the one that runs.
    for more in ({}, {"started": lock._started(os.getpid())}):
        away.put("_lock", json.dumps({**here, **more}).encode())
        with pytest.raises(InvalidInputError, match=f"process {os.getpid()} "):
            locked(away, take_over=True).__enter__()


def test_a_process_of_another_user_is_alive(
    away: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, signal: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", kill)
    away.put("_lock", json.dumps({"host": socket.gethostname(), "pid": 1}).encode())
    with pytest.raises(InvalidInputError, match="process 1 "):
        locked(away, take_over=True).__enter__()


def test_of_locks_that_were_passed_the_one_in_force_goes_last(
    away: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.put("_lock.1", json.dumps({"host": "elsewhere", "pid": 1}).encode())
    away.put("_lock", away.read("_lock.1"))
    remove: Callable[[str], None] = away.remove
    removed: list[str] = []

    def noted(name: str) -> None:
        removed.append(name)
        remove(name)

    with locked(away, take_over=True):
        monkeypatch.setattr(away, "remove", noted)
    assert removed == ["_lock", "_lock.1", "_lock.2"]


def test_a_lock_on_a_file_that_has_gone_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalFolder(tmp_path)
    flock = lock._flock
    gone: list[object] = []

    def while_its_holder_ends(file: object, *arguments: object) -> None:
        if not gone:
            gone.append(file)
            (tmp_path / "_lock").unlink()
        flock(file, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lock, "_flock", while_its_holder_ends)
    with locked(folder, take_over=False), pytest.raises(InvalidInputError, match="another run"):
        locked(folder, take_over=False).__enter__()
    assert len(gone) == 1
    assert folder.top() == []


def test_the_file_of_a_lock_goes_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    seen: list[Path] = []

    def held(path: Path, *arguments: bool) -> None:
        with path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(path)
        unlink(path, *arguments)

    with locked(LocalFolder(tmp_path), take_over=False):
        monkeypatch.setattr(Path, "unlink", held)
    monkeypatch.undo()
    assert seen == [tmp_path / "_lock"]


def test_a_file_system_without_locks_is_written_to_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), locked(LocalFolder(tmp_path), take_over=False):
        assert os.listdir(tmp_path) == ["_lock"]
    assert f"{tmp_path} can't be locked (" in caplog.text


def test_where_no_lock_can_be_had_that_is_said(
    caplog: pytest.LogCaptureFixture, bucket: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_folder("memory://parts")
    with caplog.at_level(logging.WARNING), locked(memory, take_over=False):
        pass
    assert re.search("memory://parts: fsspec has no write.*s3fs.*there is no lock", caplog.text)
    caplog.clear()
    monkeypatch.setattr(
        type(bucket), "create", lambda self, name, content: self.put(name, content) is None
    )
    with caplog.at_level(logging.WARNING), locked(bucket, take_over=False):
        pass
    assert "its server overwrites" in caplog.text

"""Claims: on a disk and on an object store alike, a file is there whole or not at all; one that is
to be new is written by one of many; what others write is seen; what a folder can't do is one line.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwardcache.distributed.parts.folder import JOB, PartsFolder
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.errors import InvalidInputError, MachineError


def test_what_is_put_is_read(folder: PartsFolder) -> None:
    folder.put("parts/ab/one", b"first")
    folder.put("parts/ab/one", b"second")
    folder.put("parts/cd/two", iter([b"a", b"", b"b"]))
    assert folder.read("parts/ab/one") == b"second"
    with folder.open("parts/cd/two") as file:
        assert file.read() == b"ab"
    assert folder.sizes("parts") == {"parts/ab/one": 6, "parts/cd/two": 2}
    assert (folder.size("parts/ab/one"), folder.size("parts/ab/none")) == (6, None)
    assert folder.top() == ["parts"]


def test_what_is_missing_is_no_error_where_it_may_be(folder: PartsFolder) -> None:
    assert folder.sizes("parts") == {}
    assert folder.top() == []
    folder.remove("parts/ab/one")
    folder.clear("parts")
    with pytest.raises(FileNotFoundError):
        folder.read("parts/ab/one")


def test_one_of_many_creates_a_file(folder: PartsFolder) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        if folder.create("_lock", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read("_lock") == b"%d" % won[0]


def test_content_that_breaks_off_leaves_what_was_there(folder: PartsFolder) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"new"
        raise KeyError

    folder.put(JOB, b"old")
    with pytest.raises((KeyError, InvalidInputError)):
        folder.put(JOB, breaking())
    assert folder.read(JOB) == b"old"
    assert folder.top() == [JOB]


def test_a_job_is_removed_and_nothing_else(folder: PartsFolder) -> None:
    folder.put("notes.txt", b"mine")
    for name in (JOB, "_SUCCESS.json", "parts/ab/one", "receipts/a-000000.jsonl"):
        folder.put(name, b"x")
    assert folder.is_begun()
    assert folder.foreign() == ["notes.txt"]
    folder.empty()
    assert folder.top() == ["notes.txt"]
    assert not folder.is_begun()


def test_a_job_is_begun_by_whatever_is_of_one(tmp_path: Path) -> None:
    for number, name in enumerate(
        (JOB, "_SUCCESS.json", "parts/ab/one", "receipts/a-000000.jsonl")
    ):
        folder = open_folder(str(tmp_path / str(number)))
        folder.prepare()
        assert not folder.is_begun()
        folder.put(name, b"x")
        # Nor are the locks that others passed foreign.
        for lock in ("_lock", "_lock.1", "_lock.23"):
            folder.put(lock, b"x")
        assert folder.is_begun()
        assert folder.foreign() == []
    folder.put("_lock.x", b"mine")
    assert folder.foreign() == ["_lock.x"]


def test_no_manifest_is_of_parts_that_have_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(str(tmp_path))
    for name in (JOB, "_SUCCESS.json", "parts/ab/one", "receipts/a-000000.jsonl"):
        folder.put(name, b"x")

    def ends(under: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "clear", ends)
    with pytest.raises(KeyboardInterrupt):
        folder.empty()
    assert folder.top() == ["parts", "receipts"]


def test_a_name_is_on_the_disk_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(
        "forwardcache.distributed.parts.folder.sync_folder",
        lambda path: synced.append((path, os.listdir(path))),
    )
    folder = open_folder(str(tmp_path))
    folder.put("parts/ab/one", b"x")
    assert folder.create("_lock", b"x")
    assert [path for path, _ in synced] == [tmp_path / "parts" / "ab", tmp_path]
    assert "one" in synced[0][1]
    assert "_lock" in synced[1][1]


def test_where_there_are_no_links_a_file_is_created_once_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    folder = open_folder(str(tmp_path))
    assert folder.create("_lock", b"first")
    assert not folder.create("_lock", b"second")
    assert folder.read("_lock") == b"first"
    assert folder.top() == ["_lock"]


def test_what_a_server_says_of_a_file_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        def __init__(self, code: str) -> None:
            self.response = {"Error": {"Code": code}}

    folder = open_folder("memory://refused")
    raised: list[Exception] = []

    def refuse(*_: object, **__: object) -> None:
        raise raised[0]

    monkeypatch.setattr(folder._fs, "pipe_file", refuse)  # type: ignore[attr-defined]
    wrapped = OSError("wrapped")
    wrapped.__cause__ = ClientError("ConditionalRequestConflict")
    for error in (FileExistsError(), ClientError("PreconditionFailed"), wrapped):
        raised[:] = [error]
        assert not folder.create("_lock", b"x")
    raised[:] = [ClientError("AccessDenied")]
    with pytest.raises(InvalidInputError, match="can't write memory://refused/_lock"):
        folder.create("_lock", b"x")


def test_what_dead_writers_left_goes(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    folder.put("parts/ab/one", b"x")
    left = tmp_path / "parts" / "ab" / ".two.0123abcd.tmp"
    left.write_bytes(b"half")
    assert folder.foreign() == []
    assert folder.sizes("parts") == {"parts/ab/one": 1}
    folder.remove_passing()
    assert not left.exists()
    assert folder.read("parts/ab/one") == b"x"


def test_a_folder_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "out"))
    folder.prepare()
    (tmp_path / "out").rmdir()
    with pytest.raises(InvalidInputError, match="No such file"):
        folder.put("parts/ab/one", b"x")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, MachineError), (errno.EROFS, InvalidInputError)]
)
def test_a_disk_that_says_no_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("forwardcache.distributed.parts.folder.to_disk", refuse)
    with pytest.raises(kind, match=f"parts/ab/one: {os.strerror(number)}"):
        open_folder(str(tmp_path)).put("parts/ab/one", b"x")
    assert list((tmp_path / "parts" / "ab").iterdir()) == []


def test_addresses_that_lead_nowhere(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nosuch"):
        open_folder("nosuch://bucket/x")
    away = open_folder("s3://no-such-bucket/x")
    away.prepare()
    with pytest.raises(InvalidInputError, match=r"can't write s3://no-such-bucket/x/_job\.json"):
        away.put(JOB, b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="is a file"):
        open_folder(str(tmp_path / "file")).prepare()
    with pytest.raises(InvalidInputError, match="there is no folder"):
        open_folder(str(tmp_path / "none" / "out")).prepare()

"""Claims: on media that can only be read a store's hits are served, what is put counts as not kept,
one line says so, and ``store info``, ``verify`` and ``export`` work; of what doesn't fit on a small
disk, or under a limit of a file's size, what fits is kept and all of it is found again.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forwardcache.store import open_store
from forwardcache.store.sqlite import SQLiteStore
from tests.cli.conftest import Run, run
from tests.store.mounts import Mounts, in_a_child, in_own_mounts
from tests.store.test_sqlite import key_of, record_of, right

__all__ = ["run"]

COUNT = 20
MANY = range(4_000)


def keys(numbers: range) -> list[bytes]:
    return [key_of(n) for n in numbers]


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A store's file with a log that isn't empty: half of the values are only in it."""
    path = tmp_path / "content" / "values.db"
    path.parent.mkdir()
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(COUNT // 2)])
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(COUNT // 2, COUNT)])
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", tmp_path / f"copied{ending}")
    return tmp_path / "copied"


def on_media(mounts: Mounts, folder: Path, files: dict[str, Path]) -> Path:
    """Files on a disk that is only read from now on; the path of the first."""
    mounts.memory(folder, "1m")
    for name, source in files.items():
        shutil.copy(source, folder / name)
    mounts.read_only(folder)
    assert not os.access(folder / "values.db", os.W_OK)
    return folder / "values.db"


def opened(path: Path) -> tuple[Any, list[str]]:
    """The store, and what was said when it was opened."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store = open_store(path)
    return store, [str(each.message) for each in warned]


def test_media_that_can_only_be_read_serve_hits(content: Path, tmp_path: Path) -> None:
    whole = tmp_path / "content" / "values.db"

    def work(mounts: Mounts, folder: Path) -> Any:
        path = on_media(mounts, folder, {"values.db": whole})
        store, said = opened(path)
        kept = [store.put_many([record_of(n)]) for n in range(100, 103)]
        found = right(store.get_many(keys(range(200))), range(200))
        info = store.info()
        store.close()
        return said, kept, found, info.entries, info.errors, sorted(map(str, folder.iterdir()))

    (folder := tmp_path / "media").mkdir()
    said, kept, found, entries, errors, files = in_own_mounts(folder, work)
    [line] = said
    assert "values.db can't be written: it is only read, and nothing is kept" in line
    assert "its log" not in line
    assert (kept, found, entries, errors) == ([0, 0, 0], COUNT, COUNT, 0)
    assert files == [f"{folder}/values.db"]


def test_a_log_on_media_that_can_only_be_read_is_not_passed_over_in_silence(
    content: Path, tmp_path: Path
) -> None:
    def work(mounts: Mounts, folder: Path) -> Any:
        files = {"values.db": content, "values.db-wal": Path(f"{content}-wal")}
        store, said = opened(on_media(mounts, folder, files))
        found = right(store.get_many(keys(range(COUNT))), range(COUNT))
        return said, found, store.info().entries

    (folder := tmp_path / "media").mkdir()
    [line], found, entries = in_own_mounts(folder, work)
    assert "what is only in its log (values.db-wal, " in line
    assert found == entries == COUNT // 2


def command(*words: object) -> tuple[int, str, str]:
    """The command in a process of its own: polars stands still where it was there before a fork."""
    done = subprocess.run(
        [sys.executable, "-m", "forwardcache", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_commands_read_a_store_on_such_media(run: Run, content: Path, tmp_path: Path) -> None:
    table, other = tmp_path / "values.parquet", tmp_path / "other.db"

    def work(mounts: Mounts, folder: Path) -> Any:
        path = on_media(mounts, folder, {"values.db": tmp_path / "content" / "values.db"})
        info = run("store", "info", path)
        verified = run("store", "verify", path)
        pruned = run("store", "prune", path, "--view", "base")
        return [
            *((each.code, each.out, each.err) for each in (info, verified)),
            command("store", "export", path, table),
            command("store", "import", other, table),
            command("store", "import", path, table),
            (pruned.code, pruned.out, pruned.err),
        ]

    (folder := tmp_path / "media").mkdir()
    info, verified, exported, imported, *refused = in_own_mounts(folder, work)
    assert (info[0], info[1].splitlines()[0][:9]) == (0, "20 values")
    assert info[2].count("can't be written: it is only read") == 1
    assert (verified[0], verified[1]) == (0, "20 values are whole, 0 are damaged and stay\n")
    assert (exported[0], exported[1]) == (0, f"20 values written to {table}\n")
    assert (imported[0], imported[1]) == (0, "20 of 20 values taken in\n")
    for code, out, err in refused:
        assert (code, out) == (2, "")
        assert f"the store {folder}/values.db can't be written" in err.splitlines()[-1]


def filled(path: Path, batch: int) -> Any:
    """Bytes of the file, values that were kept and that are found again, also later."""
    with closing(SQLiteStore(path)) as store:
        kept = [
            store.put_many([record_of(n) for n in MANY[at : at + batch]])
            for at in range(0, len(MANY), batch)
        ]
        found = right(store.get_many(keys(MANY)), MANY)
    with closing(SQLiteStore(path)) as again:
        later = right(again.get_many(keys(MANY)), MANY)
        assert again.verify().damaged == 0
    return path.stat().st_size, sum(kept), found, later


@pytest.mark.parametrize("batch", [100, 4_000])
def test_a_disk_of_a_megabyte_keeps_what_fits(tmp_path: Path, batch: int) -> None:
    def work(mounts: Mounts, folder: Path) -> Any:
        mounts.memory(folder, "1m")
        return filled(folder / "values.db", batch)

    (folder := tmp_path / "disk").mkdir()
    nbytes, kept, found, later = in_own_mounts(folder, work)
    assert kept == found == later
    assert kept > 1_300
    assert 850_000 < nbytes < 2**20


def test_a_file_that_may_not_grow_keeps_what_fits(tmp_path: Path) -> None:
    def work() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        return filled(tmp_path / "values.db", 800)

    nbytes, kept, found, later = in_a_child(work)
    assert kept == found == later
    assert 800_000 < nbytes <= 2**20

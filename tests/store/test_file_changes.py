"""Claims: a store that is moved, replaced or deleted while it is open, or that may only be read,
says so once and never says that it kept what is lost; of what doesn't fit on a disk, what fits is
kept.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from forwardcache.store.sqlite import SQLiteStore
from tests.store.test_sqlite import key_of, record_of, right

NOBODY = 65534


def keys(numbers: range) -> list[bytes]:
    return [key_of(n) for n in numbers]


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def moved_with_its_sides(path: Path) -> None:
    for each in list(path.parent.glob("values.db*")):
        each.rename(path.parent / f"other-{each.name}")


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    with closing(SQLiteStore(path.with_name("new.db"))) as new:
        new.put_many([record_of(9)])
    path.with_name("new.db").replace(path)


def folder_renamed(path: Path) -> None:
    path.parent.rename(path.parent.with_name("renamed"))


@pytest.mark.parametrize(
    "change",
    [moved, moved_with_its_sides, deleted, replaced, folder_renamed],
    ids=lambda f: f.__name__,
)
def test_a_store_that_is_gone_keeps_nothing_and_says_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "there" / "values.db"
    path.parent.mkdir()
    with closing(SQLiteStore(path)) as store:
        assert store.put_many([record_of(0)]) == 1
        change(path)
        with caplog.at_level(logging.WARNING):
            assert [store.put_many([record_of(n)]) for n in range(1, 4)] == [0, 0, 0]
            assert right(store.get_many(keys(range(4))), range(4)) == 1
    [said] = [each.getMessage() for each in caplog.records]
    assert f"{path} is no longer the store that was opened" in said
    assert not path.exists() or change is replaced


def test_a_store_that_was_moved_is_not_made_again_after_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(0)])
        moved(path)
        if (child := os.fork()) == 0:
            os._exit(store.put_many([record_of(1)]) + len(store.get_many(keys(range(2)))))
        assert os.waitpid(child, 0)[1] == 0
        assert store.get_many(keys(range(2))) == {}
        assert not path.exists()


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_a_side_file_that_was_deleted_is_made_again_and_nothing_is_lost(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "values.db"
    with closing(SQLiteStore(path)) as store:
        assert store.put_many([record_of(0)]) == 1
        Path(f"{path}{ending}").unlink()
        assert store.put_many([record_of(1)]) == 1
        with closing(SQLiteStore(path)) as other:
            assert right(other.get_many(keys(range(2))), range(2)) == 2
            assert other.put_many([record_of(2)]) == 1
        assert right(store.get_many(keys(range(3))), range(3)) == 3


def test_of_what_does_not_fit_what_fits_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    with closing(SQLiteStore(path)) as store:
        # The same error of SQLite as that of a disk without space.
        store._file.connection().execute("PRAGMA max_page_count = 60").fetchall()
        kept = store.put_many([record_of(n) for n in range(800)])
        assert 200 < kept < 800
        assert store.put_many([record_of(n) for n in range(800, 1_600)]) < 20
        assert store.info().errors == 2
        store._file.connection().execute("PRAGMA max_page_count = 4000").fetchall()
        assert store.put_many([record_of(n) for n in range(1_600, 2_400)]) == 800
        found = store.get_many(keys(range(800)))
        assert right(found, range(800)) == kept


def test_the_log_is_brought_into_the_file_before_a_small_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "values.db"
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(800)])
        logged = Path(f"{path}-wal").stat().st_size
        few = shutil.disk_usage(tmp_path)._replace(free=logged)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
        store.put_many([record_of(800)])
        assert Path(f"{path}-wal").stat().st_size < logged / 4
        assert path.stat().st_size > logged / 2


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_reader(folder: Path, work: Callable[[], int]) -> int:
    """What ``work`` gives in a process that may read the folder and write nothing in it."""
    for each in folder.iterdir():
        each.chmod(0o444)
    folder.chmod(0o555)
    if (child := os.fork()) == 0:
        code = 255
        try:
            if os.getuid() == 0:
                os.setuid(NOBODY)
            code = work()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder.chmod(0o755)
    return code


def read_only(path: Path) -> int:
    """How many of twenty values are found; more where something else isn't as it should be."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store = SQLiteStore(path)
    [said] = [str(each.message) for each in warned]
    assert "can't be written: it is only read, and nothing is kept" in said
    assert store.put_many([record_of(50)]) == 0
    found = right(store.get_many(keys(range(60))), range(60))
    assert len(list(store.records())) == store.verify().ok == store.info().entries == found
    assert store.info().errors == 0
    store.close()
    return found


def test_a_store_that_can_not_be_written_is_read(folder: Path) -> None:
    path = folder / "values.db"
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(20)])
    assert as_reader(folder, lambda: read_only(path)) == 20
    assert sorted(each.name for each in folder.iterdir()) == ["values.db"]


def test_a_store_that_can_not_be_written_is_read_with_its_log(folder: Path) -> None:
    path = folder / "values.db"
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(20)])
        assert Path(f"{path}-wal").stat().st_size > 0
        assert as_reader(folder, lambda: read_only(path)) == 20


def test_damage_in_a_store_that_can_not_be_written_stays(folder: Path) -> None:
    path = folder / "values.db"
    with closing(SQLiteStore(path)) as store:
        bad = record_of(0).blob[:-1] + b"?"
        store.put_many([record_of(1), type(record_of(0))(key_of(0), bad, "m", "base", "op")])
    content = path.read_bytes()

    def verified() -> int:
        with warnings.catch_warnings(action="ignore"):
            store = SQLiteStore(path)
        return store.verify().damaged * 10 + store.verify().damaged

    assert as_reader(folder, verified) == 11
    assert path.read_bytes() == content


def test_what_can_not_be_read_either_is_refused(folder: Path) -> None:
    path = folder / "values.db"

    def refused() -> int:
        try:
            SQLiteStore(path)
        except OSError as error:
            return 7 if "Permission denied" in str(error) else 8
        return 9

    assert as_reader(folder, refused) == 7

"""Claims: what is damaged in a store's file takes nothing else along: every way of reading it gives
all values that SQLite can find one by one, what can't be read is counted, and ``verify`` leaves a
file that is whole.
"""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from forwardcache.store.sqlite import SQLiteStore
from tests.store.test_sqlite import key_of, record_of, right

VALUES = 160
PAGE_BYTES = 4096
TABLE_LEAF, INDEX_LEAF = 13, 10


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "values.db"
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(VALUES)])
    return path.read_bytes()


def leaves_of_values(content: bytes) -> list[int]:
    """Numbers of the pages that hold values, in the order in which they were made."""
    pages = range(7, len(content) // PAGE_BYTES)
    return [page for page in pages if content[page * PAGE_BYTES] == TABLE_LEAF]


def overwritten(content: bytes, pages: list[int], fill: int) -> bytes:
    bad = bytearray(content)
    for page in pages:
        bad[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes([fill]) * PAGE_BYTES
    return bytes(bad)


def found_one_by_one(path: Path) -> int:
    """How many values plain statements of SQLite find by their numbers."""
    found = 0
    with closing(sqlite3.connect(path)) as connection:
        for number in range(1, VALUES + 1):
            try:
                statement = "SELECT blob FROM sealed NOT INDEXED WHERE id = ?"
                found += len(connection.execute(statement, (number,)).fetchall())
            except sqlite3.DatabaseError:
                continue
    return found


def opened(path: Path, content: bytes) -> SQLiteStore:
    path.write_bytes(content)
    with warnings.catch_warnings(action="ignore"):
        return SQLiteStore(path)


@pytest.mark.parametrize("fill", [0x00, 0xFF])
@pytest.mark.parametrize("which", [[1], [-1], [3, 4], [2, 9, 15]])
def test_pages_that_can_not_be_read_hide_no_others(
    content: bytes, tmp_path: Path, which: list[int], fill: int
) -> None:
    leaves = leaves_of_values(content)
    path = tmp_path / "values.db"
    path.write_bytes(overwritten(content, [leaves[each] for each in which], fill))
    there = found_one_by_one(path)
    assert 0 < there < VALUES
    with closing(SQLiteStore(path)) as store:
        at_once = store.get_many([key_of(n) for n in range(VALUES)])
        assert right(at_once, range(VALUES)) == len(list(store.records())) == there
        assert store.info().damaged == VALUES - there
        check = store.verify()
        assert (check.ok, check.damaged) == (there, VALUES - there)
        again = store.verify()
        assert (again.ok, again.damaged, store.info().entries) == (there, 0, there)
        assert store.put_many([record_of(n) for n in range(VALUES)]) == VALUES
        assert store.info().entries == VALUES


def test_values_are_kept_next_to_a_damaged_page(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    leaf = leaves_of_values(content)[2]
    with closing(opened(path, overwritten(content, [leaf], 0xFF))) as store:
        kept = store.put_many([record_of(n) for n in range(VALUES + 40)])
        assert VALUES < kept < VALUES + 40
        found = store.get_many([key_of(n) for n in range(VALUES + 40)])
        assert right(found, range(VALUES + 40)) == kept


def test_a_damaged_index_costs_no_value_and_verify_makes_it_anew(
    content: bytes, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.db"
    whole.write_bytes(content)
    with closing(sqlite3.connect(whole)) as connection:
        statement = "SELECT rootpage - 1 FROM sqlite_master WHERE type = 'index' AND tbl_name = ?"
        indexes = [page for (page,) in connection.execute(statement, ("sealed",))]
    assert len(indexes) == 2
    for page in indexes:
        with closing(opened(tmp_path / f"{page}.db", overwritten(content, [page], 0))) as store:
            assert len(list(store.records())) == VALUES
            assert store.verify().ok == VALUES
            found = store.get_many([key_of(n) for n in range(VALUES)])
            assert right(found, range(VALUES)) == VALUES
            assert store.put_many([record_of(n) for n in range(VALUES + 9)]) == VALUES + 9


def test_a_file_that_was_cut_keeps_what_is_left_of_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"with the \d+ values that can be read in it"):
        store = SQLiteStore(path)
    found = store.get_many([key_of(n) for n in range(VALUES)])
    assert right(found, range(VALUES)) == store.info().entries > VALUES // 4
    store.close()


def test_every_page_but_the_first_may_be_lost(content: bytes, tmp_path: Path) -> None:
    lost = []
    for page in range(1, len(content) // PAGE_BYTES):
        with closing(opened(tmp_path / f"{page}.db", overwritten(content, [page], 0xFF))) as store:
            lost.append(VALUES - len(list(store.records())))
            store.verify()
            assert store.verify().damaged == 0
            assert store.put_many([record_of(n) for n in range(VALUES)]) == VALUES
    # One page is the table's root, above all others.
    assert sorted(lost)[-2:] == [sorted(lost)[-2], VALUES]
    assert sorted(lost)[-2] < 10

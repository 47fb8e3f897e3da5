"""A store of an earlier version goes on, one of a later version is refused and loses nothing, and a
changed bit of the version is damage like any other.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.store import schema
from forwardcache.store.sqlite import SQLiteStore
from tests.store.test_sqlite import key_of, record_of, right


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.db"


def with_version(path: Path, version: int) -> bytes:
    """The bytes of a store of ten values that says it is of ``version``."""
    with closing(SQLiteStore(path)) as store:
        store.put_many([record_of(n) for n in range(10)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    return path.read_bytes()


def test_a_store_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    content, said = with_version(path, 99), r"values\.db is of version 99, and .* newer one"
    with pytest.raises(InvalidInputError, match=said):
        SQLiteStore(path)
    assert list(path.parent.iterdir()) == [path]
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection,
        pytest.raises(InvalidInputError, match=said),
    ):
        schema.use_for_reading(connection, path)
    assert path.read_bytes() == content


def of_version_2(path: Path) -> None:
    """Makes a store of ten values what version 2 wrote, which counted by a trigger."""
    with_version(path, 2)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER sealed_in AFTER INSERT ON sealed BEGIN UPDATE kinds SET entries = "
            "entries + 1, bytes = bytes + length(NEW.blob) WHERE id = NEW.kind; END"
        )


def test_a_store_of_an_earlier_version_goes_on(path: Path) -> None:
    of_version_2(path)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        schema.use_for_reading(connection, path)
    for _ in range(2):
        with closing(SQLiteStore(path)) as store:
            assert store.put_many([record_of(n) for n in range(5, 20)]) == 15
            size = sum(len(record_of(n).blob) for n in range(20))
            assert (store.info().entries, store.info().nbytes) == (20, size)
            assert right(store.get_many([key_of(n) for n in range(20)]), range(20)) == 20
            assert store.info().damaged == 0


@pytest.mark.parametrize("bit", [2, 4, 31])
def test_a_changed_bit_of_the_version_is_damage_and_costs_no_value(path: Path, bit: int) -> None:
    version = schema._VERSION ^ 1 << bit
    with_version(path, version - (version >> 31 << 32))
    with pytest.warns(UserWarning, match=r"values\.db\.damaged now, .* with the 10 values"):
        store = SQLiteStore(path)
    assert right(store.get_many([key_of(n) for n in range(10)]), range(10)) == 10
    store.close()

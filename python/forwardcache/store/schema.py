"""What is in the file of a ``SQLiteStore``, and whether a file is one.

Totals by kind are kept in the same transaction as the values: by whoever puts new ones, once for
all of them, and by triggers for whatever changes or removes some.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forwardcache.errors import InvalidInputError

BUSY_S = 10.0
"""How long to wait for others who write, seconds."""

_BUSY_PAUSE_S = 0.005
# The next one differs from this one in two bits or more: one that changed by itself is damage.
_VERSION = 3
# What makes a file of an earlier version one of this. Until 3 a trigger counted each new value,
# which took a seventh of the time of a put.
_EARLIER = {2: "DROP TRIGGER IF EXISTS sealed_in"}
_APPLICATION = 0x66637331  # "fcs1"
# By these a file is known for a store, also when it is damaged.
_SQLITE = b"SQLite format 3\0"
_TABLE = b"CREATE TABLE sealed"
PAGE_BYTES = 4096
# Values whose keys are on the pages of a KiB, with as much again for what else is used; and for
# how many there is memory at least and at most: 2 MiB is SQLite's own choice.
_VALUES_A_KIB = 16
_FEW, _MANY = 2**14, 2**20

_SCHEMA = """
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, view TEXT NOT NULL, op TEXT NOT NULL,
    entries INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (model, view, op)
);
CREATE TABLE sealed (
    id INTEGER PRIMARY KEY, short INTEGER NOT NULL UNIQUE, key BLOB NOT NULL, kind INTEGER NOT NULL,
    used REAL NOT NULL, blob BLOB NOT NULL
);
CREATE INDEX sealed_by_use ON sealed (used);
CREATE TRIGGER sealed_out AFTER DELETE ON sealed BEGIN
    UPDATE kinds SET entries = entries - 1, bytes = bytes - length(OLD.blob) WHERE id = OLD.kind;
END;
CREATE TRIGGER sealed_anew AFTER UPDATE OF blob ON sealed BEGIN
    UPDATE kinds SET entries = entries - 1, bytes = bytes - length(OLD.blob) WHERE id = OLD.kind;
    UPDATE kinds SET entries = entries + 1, bytes = bytes + length(NEW.blob) WHERE id = NEW.kind;
END;
"""
NOTES = (
    "CREATE TABLE IF NOT EXISTS notes (key BLOB PRIMARY KEY, written REAL NOT NULL, "
    "sealed BLOB NOT NULL)"
)
"""Made with the first note, also in a file of an earlier version: who knows no notes reads none."""

TOTAL = "SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM kinds"


class Damaged(Exception):
    """The file is a store, and can't be read by this version of this package."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes what is missing in a database, and sets how this package uses it.

    Raises:
        Damaged: it is a store, and not one that this version can read.
        InvalidInputError: it is another program's, or a later version's.
    """
    tables = _tables(connection)
    _refuse_later(connection, path, tables)
    if not tables:
        # Only before the first table, and outside a transaction.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    elif "sealed" not in tables:
        if is_a_store(path):
            raise Damaged("its table is not among its tables")
        raise InvalidInputError(f"{path} is another program's database: {tables[:3]}")
    _write_ahead(connection)
    # What was committed survives the process; after a power cut the last commits may be gone.
    connection.execute("PRAGMA synchronous = NORMAL")
    # On macOS a plain fsync leaves a checkpoint in the drive's own cache, which writes in any
    # order, and a power cut could damage the file. Elsewhere it changes nothing.
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    # The log goes into the file every 16 MB, not 4: each time waits for the disk.
    connection.execute("PRAGMA wal_autocheckpoint = 4096").fetchall()
    if not tables:
        with transaction(connection):
            if not _tables(connection):
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
    elif _version(connection) in _EARLIER:
        _bring_up(connection)
    _check(connection)
    fit_memory(connection)


def use_for_reading(connection: sqlite3.Connection, path: Path) -> None:
    """Sets how this package reads a store that it can't write.

    Raises:
        Damaged: it is a store, and not one that this version can read.
        InvalidInputError: it is another program's, or a later version's.
    """
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    _refuse_later(connection, path, tables := _tables(connection))
    if "sealed" not in tables:
        if is_a_store(path):
            raise Damaged("its table is not among its tables")
        raise InvalidInputError(f"{path} is another program's database: {tables[:3]}")
    _check(connection)
    fit_memory(connection)


def fit_memory(connection: sqlite3.Connection) -> int:
    """Gives SQLite memory for the pages of all keys, up to those of a million, and few others.

    A page that is used for the first time costs a tenth of a put, and those of values aren't asked
    for again soon.

    Returns:
        For how many values it is enough.
    """
    entries = connection.execute(TOTAL).fetchone()[0]
    # A changed bit may have made another type of it.
    allowed = min(2 * max(entries if isinstance(entries, int) else 0, _FEW), _MANY)
    connection.execute(f"PRAGMA cache_size = {-(allowed // _VALUES_A_KIB)}")
    return allowed if allowed < _MANY else sys.maxsize


def _bring_up(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        # Another process may have done it meanwhile.
        if (statement := _EARLIER.get(_version(connection))) is not None:
            connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _refuse_later(connection: sqlite3.Connection, path: Path, tables: list[str]) -> None:
    """Refuses what a later version of this package has written, before anything is changed in it.

    Raises:
        InvalidInputError: it has.
    """
    version = _version(connection)
    is_one_bit_off = (version ^ _VERSION).bit_count() == 1
    if "sealed" in tables and version > _VERSION and not is_one_bit_off:
        raise InvalidInputError(
            f"the store {path} is of version {version}, and this forwardcache reads up to "
            f"{_VERSION}: use a newer one, or name another file"
        )


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _check(connection: sqlite3.Connection) -> None:
    version = _version(connection)
    # One that can't be written stays what it is.
    if version != _VERSION and version not in _EARLIER:
        raise Damaged(f"its version is {version}, not {_VERSION}")
    connection.execute(TOTAL).fetchone()
    connection.execute("SELECT id, short, key, kind, used, blob FROM sealed LIMIT 1").fetchone()


def is_a_store(path: Path) -> bool:
    """Whether a file that can't be opened was a store: some mark of ours is still in it."""
    first_bytes = _beginning(path)
    if len(first_bytes) < PAGE_BYTES:
        # Cut within the first page: nothing of anybody's is in it.
        return first_bytes[: len(_SQLITE)] == _SQLITE[: len(first_bytes)]
    is_named = int.from_bytes(first_bytes[68:72], "big") == _APPLICATION
    return is_named or any(
        _TABLE in part for part in (first_bytes, _beginning(Path(f"{path}-wal")))
    )


def _beginning(path: Path) -> bytes:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(16 * PAGE_BYTES)
    return b""


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in rows]


def _statements(script: str) -> Iterator[str]:
    """The script's statements; ``executescript`` would commit before the first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of its body's writes, or none; waits for other writers at its beginning."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors (a full disk).
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switches to the write-ahead log, and waits for others who begin the same store.

    SQLite waits for no lock here where it sees that two could wait for each other.
    """
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > give_up:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return

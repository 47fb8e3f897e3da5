"""What is asked of a store's file, as statements of SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from forwardcache.store.base import Record
from forwardcache.store.schema import PAGE_BYTES, TOTAL, transaction

# Of a key, in the index.
_SHORT_BYTES = 8
# Most keys in a statement; SQLite allows 999 parameters everywhere.
_KEYS_AT_ONCE = 900
_REMOVED_AT_ONCE = 1024
# A transaction that waits for readers at its end waits no longer than this, milliseconds.
_CHECKPOINT_MS = 100

_PUT = "INSERT OR IGNORE INTO sealed (short, key, kind, used, blob) VALUES (?, ?, ?, ?, ?)"
_PUT_OVER = "UPDATE sealed SET key = ?, kind = ?, used = ?, blob = ? WHERE short = ?"
# A new row's number is one more than the last one's.
_SINCE = "SELECT short FROM sealed NOT INDEXED WHERE id > ?"
_COUNT = "UPDATE kinds SET entries = entries + ?, bytes = bytes + ? WHERE id = ?"

# Key, kind, time of use and value.
Written = tuple[bytes, int, float, bytes]


def put(connection: sqlite3.Connection, rows: Iterable[Written]) -> None:
    """Writes values over what was there; within a transaction."""
    shortened = {short(row[0]): row for row in rows}
    last = connection.execute("SELECT max(id) FROM sealed NOT INDEXED").fetchone()[0] or 0
    done = connection.executemany(_PUT, [(each, *row) for each, row in shortened.items()])
    if done.rowcount == len(shortened):
        _count(connection, shortened.values())
        return
    new = {each for (each,) in connection.execute(_SINCE, (last,))}
    _count(connection, [row for each, row in shortened.items() if each in new])
    over = [(*row, each) for each, row in shortened.items() if each not in new]
    connection.executemany(_PUT_OVER, over)


def most_bytes(records: Iterable[Record]) -> int:
    """What the pages that a put changes take at most, roughly.

    Args:
        records: What is put: each changes pages of its own, and one of the index of keys.
    """
    return sum([PAGE_BYTES * (2 + len(record.blob) // PAGE_BYTES) for record in records])


def _count(connection: sqlite3.Connection, rows: Iterable[Written]) -> None:
    """Adds new rows to the totals of their kinds."""
    totals: dict[int, tuple[int, int]] = {}
    for _, kind, _, blob in rows:
        entries, nbytes = totals.get(kind, (0, 0))
        totals[kind] = entries + 1, nbytes + len(blob)
    connection.executemany(_COUNT, [(*total, kind) for kind, total in totals.items()])


def kind_of(connection: sqlite3.Connection, names: tuple[str, str, str]) -> int:
    """The number of a model, view and op; made if there is none. Within a transaction."""
    connection.execute("INSERT OR IGNORE INTO kinds (model, view, op) VALUES (?, ?, ?)", names)
    found = connection.execute(
        "SELECT id FROM kinds WHERE model = ? AND view = ? AND op = ?", names
    )
    number: int = found.fetchone()[0]
    return number


def portions(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The keys in parts of one statement each."""
    left = iter(keys)
    while some := list(islice(left, _KEYS_AT_ONCE)):
        yield some


def short(key: bytes) -> int:
    """The part of a key that is in the index."""
    return int.from_bytes(key[:_SHORT_BYTES], "big", signed=True)


def read(
    connection: sqlite3.Connection, keys: Sequence[bytes]
) -> list[tuple[int, bytes, int, float, bytes]]:
    """Number, key, kind, time of use and value of those keys that are there."""
    asked, marks = set(keys), ",".join("?" * len(keys))
    rows = connection.execute(
        f"SELECT id, key, kind, used, blob FROM sealed WHERE short IN ({marks})",
        [short(key) for key in keys],
    )
    # A flipped bit may have changed a type, also to one that can't be compared.
    types = (int, bytes, int, float, bytes)
    return [row for row in rows if tuple(map(type, row)) == types and row[1] in asked]


def names(connection: sqlite3.Connection) -> dict[int, tuple[str, str, str]]:
    """Model, view and op of each kind, by its number."""
    rows = connection.execute("SELECT id, model, view, op FROM kinds")
    return {number: (model, view, op) for number, model, view, op in rows}


def touch(connection: sqlite3.Connection, stale: list[tuple[float, int]]) -> None:
    """Writes new times of use: (time, number) of each row."""
    with transaction(connection):
        connection.executemany("UPDATE sealed SET used = ? WHERE id = ?", stale)


def drop(connection: sqlite3.Connection, numbers: list[tuple[int]]) -> int:
    """Removes rows by their numbers; how many."""
    with transaction(connection):
        connection.executemany("DELETE FROM sealed WHERE id = ?", numbers)
    return len(numbers)


def shrink(connection: sqlite3.Connection, most: int) -> int:
    """Removes the least recently used until the rest is no larger than ``most`` bytes."""
    removed = 0
    excess = connection.execute(TOTAL).fetchone()[1] - most
    while excess > 0:
        oldest = connection.execute(
            "SELECT id, length(blob) FROM sealed ORDER BY used, id LIMIT ?", (_REMOVED_AT_ONCE,)
        ).fetchall()
        chosen: list[tuple[int]] = []
        for number, length in oldest:
            if excess <= 0:
                break
            chosen.append((number,))
            excess -= length
        if not chosen:
            break
        connection.executemany("DELETE FROM sealed WHERE id = ?", chosen)
        removed += len(chosen)
    return removed


def is_consistent(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds nothing wrong with the file; reads all of it."""
    [(answer,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    return bool(answer == "ok")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Brings the log into the file and gives its space back, unless others hold it."""
    [(before,)] = connection.execute("PRAGMA busy_timeout").fetchall()
    connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_MS}").fetchall()
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {before}").fetchall()

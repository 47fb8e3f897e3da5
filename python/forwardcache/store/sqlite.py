"""A store in one SQLite file, which any number of processes of one machine read and write.

A write-ahead log, so readers and the writer don't wait for each other; a commit is one whole batch,
so a killed process leaves none or all of it. Totals by kind are kept by triggers in the same
transaction as the values, so they need no scan and hold for all processes together.

Values stand in the order in which they were put, which is the one in which they are asked for
again, and are found by the first eight bytes of their keys: an index a third the size of one of
whole keys, so that it stays in memory. The whole key is compared with what is found.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TypeVar

from forwardcache.errors import InvalidInputError
from forwardcache.store.base import Record, StoreCheck, StoreInfo
from forwardcache.store.place import check_local
from forwardcache.store.schema import BUSY_S, TOTAL, Damaged, is_a_store, prepare, transaction
from forwardcache.store.seal import unseal

DEFAULT_MAX_BYTES = 16 * 2**30

# Removal goes on to this share of the limit, so that it is rare and does much at once.
_KEPT_SHARE = 0.9
_REMOVED_AT_ONCE = 1024
# Of a key, in the index.
_SHORT_BYTES = 8
# Most keys in a statement; SQLite allows 999 parameters everywhere.
_KEYS_AT_ONCE = 900
# A value's time of use is written again only when it is this old: reading mostly writes nothing.
_TOUCHED_EVERY_S = 600.0

_PUT = """
INSERT INTO sealed (short, key, kind, used, blob) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (short) DO UPDATE SET
    key = excluded.key, kind = excluded.kind, used = excluded.used, blob = excluded.blob
"""
# Whatever isn't one of these says that the file is not what was written.
_NOT_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        # No lock could be had on the log, which says nothing of what is in it.
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_IOERR,
    }
)
# After these a connection may hold locks that it could not give back, on which it would then wait
# for ten seconds in every call.
_ENDS_CONNECTION = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL})

T = TypeVar("T")


class SQLiteStore:
    """Sealed values in one file.

    A store that is damaged as a whole, or of another version, is moved to ``PATH.damaged`` with a
    warning and begun anew. It is closed before a ``fork`` and opened again on both sides.

    Args:
        path: The file; made with mode 0600 if it isn't there. On a local disk.
        max_bytes: Most bytes of sealed values; the least recently used go first, a tenth of the
            limit at once. None for no limit.

    Raises:
        InvalidInputError: the limit is not positive; the path is a folder, in one that isn't there,
            on a network file system, or a file that is not a store.
        OSError: the file can't be opened or made.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = DEFAULT_MAX_BYTES) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise InvalidInputError(f"max_bytes must be positive or None, got {max_bytes}")
        self.path = Path(path).absolute()
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._errors = self._damaged = 0
        self._kinds: dict[tuple[str, str, str], int] = {}
        if self.path.is_dir():
            raise InvalidInputError(f"a store is a file, and {path} is a folder")
        if not self.path.parent.is_dir():
            raise InvalidInputError(f"there is no folder {self.path.parent} for the store")
        check_local(self.path)
        with self._lock:
            self._open_or_begin_anew()
        _opened.add(self)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The blobs of those keys that are there; what can't be read is not.

        Args:
            keys: 32 bytes each.
        """
        return {key: blob for key, blob, _ in self._rows(keys)}

    def get_records(self, keys: Sequence[bytes]) -> list[Record]:
        """Those keys that are there, with what was written with them.

        Args:
            keys: 32 bytes each.
        """
        rows = self._rows(keys)
        names = (self._guarded(_names) if rows else None) or {}
        return [Record(key, blob, *names.get(kind, ("", "", ""))) for key, blob, kind in rows]

    def put_many(self, records: Sequence[Record]) -> int:
        """Writes values in one transaction, over what was there.

        Args:
            records: Sealed values.

        Returns:
            How many were kept.
        """
        if not records:
            return 0
        return self._guarded(partial(self._put, records=records)) or 0

    def info(self) -> StoreInfo:
        """Entries and bytes, as all processes together left them."""

        def read(connection: sqlite3.Connection) -> dict[tuple[str, str, str], tuple[int, int]]:
            rows = connection.execute("SELECT model, view, op, entries, bytes FROM kinds")
            return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows if row[3]}

        kinds = self._guarded(read) or {}
        entries, nbytes = (sum(each[place] for each in kinds.values()) for place in (0, 1))
        return StoreInfo(entries, nbytes, kinds, self._errors, self._damaged)

    def verify(self) -> StoreCheck:
        """Unseals every value, and drops what is no value."""
        ok = damaged = last = 0
        while rows := (self._guarded(partial(_page, after=last)) or []):
            bad = [
                (number,)
                for number, key, blob in rows
                if not (isinstance(key, bytes) and isinstance(blob, bytes))
                or unseal(key, blob) is None
            ]
            ok, damaged, last = ok + len(rows) - len(bad), damaged + len(bad), rows[-1][0]
            if bad:
                (self._guarded(partial(_drop, numbers=bad)) or 0)
        with self._lock:
            self._damaged += damaged
        return StoreCheck(ok, damaged)

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        model: str | None = None,
        view: str | None = None,
        max_bytes: int | None = None,
    ) -> int:
        """Drops values by age, model and view, then the least recently used beyond a size.

        Of the first three all that are given must hold. The space goes back to the file system.

        Args:
            older_than_s: Only those not used for so many seconds; the time of use is known to ten
                minutes.
            model: Only those of this model's fingerprint, hex.
            view: Only those of this view's id.
            max_bytes: Then also the least recently used of all, until no more than this is left.

        Returns:
            How many were dropped.
        """
        conditions = {
            "used < ?": None if older_than_s is None else time.time() - older_than_s,
            "kind IN (SELECT id FROM kinds WHERE model = ?)": model,
            "kind IN (SELECT id FROM kinds WHERE view = ?)": view,
        }
        given = {text: value for text, value in conditions.items() if value is not None}

        def remove(connection: sqlite3.Connection) -> int:
            removed = 0
            with transaction(connection):
                if given:
                    where = " AND ".join(given)
                    removed = connection.execute(
                        f"DELETE FROM sealed WHERE {where}", [*given.values()]
                    ).rowcount
                if max_bytes is not None:
                    removed += _shrink(connection, max_bytes)
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return removed

        return self._guarded(remove) or 0

    def close(self) -> None:
        """Closes the file; later calls find nothing and keep nothing. Idempotent."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def records(self) -> Iterator[Record]:
        """Every value that is whole, with its kind, in the order in which they were first put."""
        last = 0
        while rows := (self._guarded(partial(_full_page, after=last)) or []):
            last = rows[-1][0]
            for _, key, blob, *kind in rows:
                if isinstance(blob, bytes) and unseal(key, blob) is not None:
                    yield Record(key, blob, *kind)

    def _rows(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes, int]]:
        """Key, blob and kind of those that are there; they count as used."""
        found: list[tuple[bytes, bytes, int]] = []
        now = time.time()
        stale: list[tuple[float, int]] = []
        for some in _portions(dict.fromkeys(keys)):
            rows = self._guarded(partial(_read, keys=some)) or []
            for number, key, kind, used, blob in rows:
                found.append((key, blob, kind))
                if not now - _TOUCHED_EVERY_S < used <= now:
                    stale.append((now, number))
        if stale and self.max_bytes is not None:
            self._guarded(partial(_touch, stale=stale))
        return found

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``work`` gives; None, and a count, where SQLite fails."""
        with self._lock:
            if self._closed:
                return None
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return work(self._connection)
            # The second is SQLite's text that is no UTF-8 any more.
            except (
                sqlite3.Error,
                UnicodeDecodeError,
                OSError,
                InvalidInputError,
                Damaged,
            ) as error:
                self._errors += 1
                if _code_of(error) in _ENDS_CONNECTION:
                    self._disconnect()
                # Kinds that were made in a transaction that failed are not there.
                self._kinds.clear()
                return None

    def _put(self, connection: sqlite3.Connection, records: Sequence[Record]) -> int:
        now = time.time()
        with transaction(connection):
            rows = [
                (_short(record.key), record.key, self._kind(connection, record), now, record.blob)
                for record in records
            ]
            connection.executemany(_PUT, rows)
            if self.max_bytes is not None:
                _, total = connection.execute(TOTAL).fetchone()
                if total > self.max_bytes:
                    _shrink(connection, int(self.max_bytes * _KEPT_SHARE))
        return len(records)

    def _kind(self, connection: sqlite3.Connection, record: Record) -> int:
        kind = record.model, record.view, record.op
        if kind not in self._kinds:
            connection.execute(
                "INSERT OR IGNORE INTO kinds (model, view, op) VALUES (?, ?, ?)", kind
            )
            found = connection.execute(
                "SELECT id FROM kinds WHERE model = ? AND view = ? AND op = ?", kind
            )
            self._kinds[kind] = found.fetchone()[0]
        return self._kinds[kind]

    def _open_or_begin_anew(self) -> None:
        try:
            self._connection = self._connect()
        except (sqlite3.Error, UnicodeDecodeError, Damaged) as error:
            if _code_of(error) in _NOT_DAMAGE:
                raise OSError(f"can't open the store {self.path}: {error}") from error
            if not is_a_store(self.path):
                reason = f"{self.path} is no store of forwardcache's: name another file"
                raise InvalidInputError(reason) from error
            self._move_aside(error)
            self._connection = self._connect()

    def _move_aside(self, error: Exception) -> None:
        aside = _free_name(self.path.with_name(f"{self.path.name}.damaged"))
        os.replace(self.path, aside)
        for ending in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{ending}", f"{aside}{ending}")
        self._damaged += 1
        warnings.warn(
            f"the store {self.path} can't be read ({error}): it is {aside} now, and another begins",
            stacklevel=4,
        )

    def _connect(self) -> sqlite3.Connection:
        # Made here, so that nobody else can read it at any time; SQLite's side files take its mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._kinds.clear()
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _code_of(error: Exception) -> int:
    """SQLite's code of an error; of one that isn't SQLite's, that for damage."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(name for name in chain([path], names) if not os.path.lexists(name))


def _portions(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    left = iter(keys)
    while some := list(islice(left, _KEYS_AT_ONCE)):
        yield some


def _short(key: bytes) -> int:
    return int.from_bytes(key[:_SHORT_BYTES], "big", signed=True)


def _read(
    connection: sqlite3.Connection, keys: Sequence[bytes]
) -> list[tuple[int, bytes, int, float, bytes]]:
    asked, marks = set(keys), ",".join("?" * len(keys))
    rows = connection.execute(
        f"SELECT id, key, kind, used, blob FROM sealed WHERE short IN ({marks})",
        [_short(key) for key in keys],
    )
    # A flipped bit may have changed a type, also to one that can't be compared.
    types = (int, bytes, int, float, bytes)
    return [row for row in rows if tuple(map(type, row)) == types and row[1] in asked]


def _names(connection: sqlite3.Connection) -> dict[int, tuple[str, str, str]]:
    rows = connection.execute("SELECT id, model, view, op FROM kinds")
    return {number: (model, view, op) for number, model, view, op in rows}


def _touch(connection: sqlite3.Connection, stale: list[tuple[float, int]]) -> None:
    with transaction(connection):
        connection.executemany("UPDATE sealed SET used = ? WHERE id = ?", stale)


def _drop(connection: sqlite3.Connection, numbers: list[tuple[int]]) -> int:
    with transaction(connection):
        connection.executemany("DELETE FROM sealed WHERE id = ?", numbers)
    return len(numbers)


def _shrink(connection: sqlite3.Connection, most: int) -> int:
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


def _page(connection: sqlite3.Connection, after: int) -> list[tuple[int, bytes, bytes]]:
    rows = connection.execute(
        "SELECT id, key, blob FROM sealed WHERE id > ? ORDER BY id LIMIT 1000", (after,)
    )
    return rows.fetchall()


def _full_page(
    connection: sqlite3.Connection, after: int
) -> list[tuple[int, bytes, bytes, str, str, str]]:
    rows = connection.execute(
        "SELECT sealed.id, key, blob, model, view, op FROM sealed JOIN kinds ON kinds.id = kind "
        "WHERE sealed.id > ? ORDER BY sealed.id LIMIT 1000",
        (after,),
    )
    return rows.fetchall()


# SQLite keeps locks and shared memory by process: a connection taken through a fork, even only to
# be closed, breaks both sides. So none is open while a fork happens.
_opened: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_forking: list[SQLiteStore] = []


def _before_fork() -> None:
    for store in list(_opened):
        store._lock.acquire()
        store._disconnect()
        _forking.append(store)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )

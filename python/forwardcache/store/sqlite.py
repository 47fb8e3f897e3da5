"""A store in one SQLite file, which any number of processes of one machine read and write.

A write-ahead log, so readers and the writer don't wait for each other; a commit is one whole batch,
so a killed process leaves none or all of it. Totals by kind are kept in the same transaction as
the values, so they need no scan and hold for all processes together.

Values lie in the order in which they were put, which is the one in which they are asked for
again, and are found by the first eight bytes of their keys: an index a third the size of one of
whole keys, so that it stays in memory. The whole key is compared with what is found.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from forwardcache.errors import InvalidInputError
from forwardcache.store import statements
from forwardcache.store.base import Record, StoreCheck, StoreInfo
from forwardcache.store.checkpoint import Checkpoints
from forwardcache.store.failure import Failure
from forwardcache.store.file import StoreFile, open_damaged
from forwardcache.store.filesystem import check_local
from forwardcache.store.rebuild import Kept, rebuild
from forwardcache.store.scan import Read, Row, Scan
from forwardcache.store.schema import TOTAL, fit_memory, transaction
from forwardcache.store.seal import unseal

_log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 16 * 2**30

# Removal goes on to this share of the limit, so that it is rare and does much at once.
_KEPT_SHARE = 0.9
# A value's time of use is written again only when it is this old: reading mostly writes nothing.
_TOUCHED_EVERY_S = 600.0

# The log's space has to be there a second time in the file; beyond that, some for its memory.
_SPARE_BYTES = 2**16

T = TypeVar("T")


class SQLiteStore:
    """Sealed values in one file.

    A store that is damaged as a whole is moved to ``PATH.damaged`` with a warning and begun anew;
    one of a later version is refused and left as it is. It is closed before a ``fork`` and opened
    again on both sides.

    A file that can't be written is only read. One that is moved, deleted or replaced while it is
    open keeps nothing from then on.

    Args:
        path: The file; made with mode 0600 if it isn't there. On a local disk.
        max_bytes: Most bytes of sealed values; the least recently used go first, a tenth of the
            limit at once. None for no limit.

    Raises:
        InvalidInputError: the limit is not positive; the path is a folder, in one that isn't there,
            on a network file system, a file that is not a store, or one of a later version.
        OSError: the file can't be opened or made.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = DEFAULT_MAX_BYTES) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise InvalidInputError(f"max_bytes must be positive or None, got {max_bytes}")
        self.path = Path(path).absolute()
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._file = StoreFile(self.path)
        self._checkpoints = Checkpoints(self.path)
        self._closed = self._is_full = self._has_said = False
        self._errors = self._damaged = self._fits = 0
        self._kinds: dict[tuple[str, str, str], int] = {}
        if self.path.is_dir():
            raise InvalidInputError(f"a store is a file, and {path} is a folder")
        if not self.path.parent.is_dir():
            raise InvalidInputError(f"there is no folder {self.path.parent} for the store")
        check_local(self.path)
        with self._lock:
            self._damaged += self._file.open(self._take_over)
        _opened.add(self)

    @property
    def is_only_read(self) -> bool:
        """Whether the file can't be written, so that nothing is kept or dropped."""
        return self._file.is_only_read

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
        names = (self._guarded(statements.names) if rows else None) or {}
        return [Record(key, blob, *names.get(kind, ("", "", ""))) for key, blob, kind in rows]

    def put_many(self, records: Sequence[Record]) -> int:
        """Writes values in one transaction, over what was there; what doesn't fit in parts.

        Args:
            records: Sealed values.

        Returns:
            How many were kept.
        """
        with self._lock:
            if not records or not self._can_keep():
                return 0
            kept = self._put_in_parts(records)
            self._errors += kept < len(records)
            self._checkpoints.count(sum([len(record.blob) for record in records]) if kept else 0)
            return kept

    def info(self) -> StoreInfo:
        """Entries and bytes, as all processes together left them."""

        def read(connection: sqlite3.Connection) -> dict[tuple[str, str, str], tuple[int, int]]:
            rows = connection.execute("SELECT model, view, op, entries, bytes FROM kinds")
            return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows if row[3]}

        kinds = self._guarded(read) or {}
        entries, nbytes = (sum(each[column] for each in kinds.values()) for column in (0, 1))
        return StoreInfo(entries, nbytes, kinds, self._errors, self._damaged)

    def verify(self) -> StoreCheck:
        """Unseals every value, and drops what is no value and what can't be read."""
        scan, ok, bad = Scan(self._read_past_damage), 0, 0
        try:
            for rows in scan.pages():
                broken = [(row[0],) for row in rows if _unsealed(row) is None]
                ok, bad = ok + len(rows) - len(broken), bad + len(broken)
                if broken and not self.is_only_read:
                    self._guarded(partial(statements.drop, numbers=broken))
            self._repair(is_needed=scan.unreadable > 0)
        except Failure:
            self._errors += 1
        with self._lock:
            self._damaged += bad + scan.unreadable
        return StoreCheck(ok, bad + scan.unreadable)

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
                    removed += statements.shrink(connection, max_bytes)
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return removed

        return self._guarded(remove) or 0

    def close(self) -> None:
        """Closes the file; later calls find nothing and keep nothing. Idempotent."""
        with self._lock:
            self._closed = True
            self._checkpoints.wait()
            self._file.disconnect()

    def records(self) -> Iterator[Record]:
        """Every value that is whole, with its kind, in the order in which they were first put.

        What can't be read is left out, and counted in ``info().damaged``.
        """
        scan, broken = Scan(self._read_past_damage), 0
        try:
            for page in _whole_pages(scan, self._read_past_damage):
                for key, blob, _, names in page.whole:
                    yield Record(key, blob, *names)
                broken += page.broken
        except Failure:
            self._errors += 1
        with self._lock:
            self._damaged += broken + scan.unreadable

    def _rows(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes, int]]:
        """Key, blob and kind of those that are there; they count as used."""
        found: list[tuple[bytes, bytes, int]] = []
        now = time.time()
        stale: list[tuple[float, int]] = []
        for some in statements.portions(dict.fromkeys(keys)):
            for number, key, kind, used, blob in self._found(some):
                found.append((key, blob, kind))
                if not now - _TOUCHED_EVERY_S < used <= now:
                    stale.append((now, number))
        if stale and self.max_bytes is not None and not self.is_only_read:
            self._guarded(partial(statements.touch, stale=stale))
        return found

    def _found(self, keys: list[bytes]) -> list[tuple[int, bytes, int, float, bytes]]:
        """The rows of those keys that can be read: one that can't hides no other."""
        found, todo, failures = [], [keys], 0
        while todo:
            some = todo.pop()
            try:
                found += self._attempt(partial(statements.read, keys=some))
            except Failure as failure:
                failures += failure.cause is not None
                if not failure.is_damage:
                    break
                if len(some) > 1:
                    middle = len(some) // 2
                    todo += [some[middle:], some[:middle]]
        self._errors += failures > 0
        return found

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` gives.

        Raises:
            Failure: SQLite failed, or the store is closed.
        """
        with self._lock:
            if self._closed:
                raise Failure(None)
            try:
                connection = self._file.connection()
            except Failure.CAUSES as error:
                raise Failure(error, is_of_opening=True) from error
            try:
                return work(connection)
            except Failure.CAUSES as error:
                failure = Failure(error)
                if failure.ends_connection:
                    self._file.disconnect()
                # Kinds that were made in a transaction that failed are not there.
                self._kinds.clear()
                raise failure from error

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``work`` gives; None, and a count, where SQLite fails."""
        try:
            return self._attempt(work)
        except Failure as failure:
            self._errors += failure.cause is not None
            return None

    def _read_past_damage(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        try:
            return self._attempt(work)
        except Failure as failure:
            if not failure.is_damage:
                raise
            return None

    def _can_keep(self) -> bool:
        """Whether what is put can be found again; says once why not."""
        if self._closed or self.is_only_read:
            return False
        if self._file.is_in_place():
            return True
        if not self._has_said:
            self._has_said = True
            _log.warning(
                "%s is no longer the store that was opened (moved, deleted or replaced): "
                "nothing more is kept in it",
                self.path,
            )
        return False

    def _put_in_parts(self, records: Sequence[Record]) -> int:
        """How many were kept.

        All at once if that works. Of what doesn't fit, or belongs where the file is damaged, as
        much as can be: parts are halved after a failure and doubled after a success.
        """
        kept = at = 0
        size = 1 if self._is_full else len(records)
        while at < len(records):
            part = records[at : at + size]
            try:
                kept += self._attempt(partial(self._put, records=part))
            except Failure as failure:
                if failure.is_full:
                    with suppress(Failure):
                        self._attempt(statements.checkpoint)
                if len(part) > 1 and failure.may_spare_parts:
                    size = len(part) // 2
                    continue
                if not failure.is_damage:
                    self._is_full = failure.is_full
                    return kept
                part = part[:1]
            else:
                self._is_full, size = False, size * 2
            at += len(part)
        return kept

    def _put(self, connection: sqlite3.Connection, records: Sequence[Record]) -> int:
        now = time.time()
        self._make_room(connection, records)
        with transaction(connection):
            statements.put(
                connection,
                [
                    (record.key, self._kind(connection, record), now, record.blob)
                    for record in records
                ],
            )
            entries, total = connection.execute(TOTAL).fetchone()
            if entries > self._fits:
                self._fits = fit_memory(connection)
            if self.max_bytes is not None and total > self.max_bytes:
                statements.shrink(connection, int(self.max_bytes * _KEPT_SHARE))
        return len(records)

    def _make_room(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        """Brings the log into the file before the space that this takes is gone.

        A transaction that finds out by itself that there is none leaves a log that is as large as
        the disk, and no space to bring anything of it into the file.

        Raises:
            OSError: there is not enough for ``records``, in the log and then in the file.
        """
        needed = 2 * statements.most_bytes(records) + _SPARE_BYTES
        logged, free = self._logged(), shutil.disk_usage(self.path.parent).free
        if logged and free < needed + logged:
            statements.checkpoint(connection)
            logged, free = self._logged(), shutil.disk_usage(self.path.parent).free
        if free < needed + logged:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _logged(self) -> int:
        """Bytes of the log."""
        with suppress(OSError):
            return os.stat(f"{self.path}-wal").st_size
        return 0

    def _kind(self, connection: sqlite3.Connection, record: Record) -> int:
        names = record.model, record.view, record.op
        if names not in self._kinds:
            self._kinds[names] = statements.kind_of(connection, names)
        return self._kinds[names]

    def _repair(self, *, is_needed: bool) -> None:
        """Makes a damaged file anew from what is whole in it."""
        if self.is_only_read:
            return
        if not is_needed and self._read_past_damage(statements.is_consistent):
            return
        with self._lock:
            scan = Scan(self._read_past_damage)
            pages = (page.whole for page in _whole_pages(scan, self._read_past_damage))
            self._attempt(lambda connection: rebuild(self.path, connection, pages))
            self._kinds.clear()
        _log.warning("the store %s was damaged, and is made anew of what is whole in it", self.path)

    def _take_over(self, damaged: Path) -> int:
        """Puts what can be read of a file that was moved aside; how many values."""
        taken = 0
        # Of what can't be read at all nothing is taken.
        with suppress(Failure, *Failure.CAUSES), closing(open_damaged(damaged)) as connection:
            read = _past_damage_of(connection)
            for page in _whole_pages(Scan(read), read):
                records = [Record(key, blob, *names) for key, blob, _, names in page.whole]
                taken += self._put_in_parts(records)
        return taken


@dataclass(frozen=True, slots=True)
class _Page:
    """Values that are whole, and how many are not."""

    whole: list[Kept]
    broken: int


def _whole_pages(scan: Scan, read: Read) -> Iterator[_Page]:
    names: dict[int, tuple[str, str, str]] = {}
    for rows in scan.pages():
        if any(row[3] not in names for row in rows):
            # Those of rows that others put meanwhile.
            names = read(statements.names) or names
        whole = [
            (row[1], row[2], _used(row), names.get(row[3], ("", "", "")))
            for row in rows
            if _unsealed(row) is not None
        ]
        yield _Page(whole, len(rows) - len(whole))


def _unsealed(row: Row) -> object:
    """The row's value; None if it is damaged."""
    _, key, blob, *_ = row
    is_typed = isinstance(key, bytes) and isinstance(blob, bytes)
    return unseal(key, blob) if is_typed else None


def _used(row: Row) -> float:
    return row[4] if isinstance(row[4], float) else 0.0


def _past_damage_of(connection: sqlite3.Connection) -> Read:
    def read(work: Callable[[sqlite3.Connection], T]) -> T | None:
        try:
            return work(connection)
        except Failure.CAUSES as error:
            failure = Failure(error)
            if not failure.is_damage:
                raise failure from error
            return None

    return read


# SQLite keeps locks and shared memory by process: a connection taken through a fork, even only to
# be closed, breaks both sides. So none is open while a fork happens.
_opened: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_forking: list[SQLiteStore] = []


def _before_fork() -> None:
    for store in list(_opened):
        store._lock.acquire()
        store._checkpoints.wait()
        store._file.disconnect()
        _forking.append(store)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )

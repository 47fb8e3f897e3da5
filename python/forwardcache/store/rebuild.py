"""A damaged store's file made anew from what can be read of it, in its place.

What is whole goes into a file next to it, which then becomes the store's content page by page, as
SQLite copies a database into one that is in use: in one transaction, so that other processes see
the old content or the new one, and lose neither file nor locks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from forwardcache.store import statements
from forwardcache.store.schema import prepare, transaction

# A value with its names: key, value, time of use; model, view, op.
Kept = tuple[bytes, bytes, float, tuple[str, str, str]]


def rebuild(path: Path, connection: sqlite3.Connection, pages: Iterable[Sequence[Kept]]) -> None:
    """Replaces the content of the store at ``path`` by ``pages``.

    Args:
        path: The store's file, next to which there must be space for another.
        connection: Its connection.
        pages: Values, some thousand at a time.

    Raises:
        OSError: there is no space for the other file.
        sqlite3.Error: it can't be written, or can't be copied.
    """
    rebuilt = path.with_name(f"{path.name}.rebuilt")
    _remove(rebuilt)
    try:
        os.close(os.open(rebuilt, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(rebuilt, isolation_level=None)) as fresh:
            prepare(fresh, rebuilt)
            for page in pages:
                _put(fresh, page)
            fresh.backup(connection)
    finally:
        _remove(rebuilt)


def _put(fresh: sqlite3.Connection, page: Sequence[Kept]) -> None:
    with transaction(fresh):
        kinds = {names: statements.kind_of(fresh, names) for names in {each[3] for each in page}}
        statements.put(fresh, ((key, kinds[names], used, blob) for key, blob, used, names in page))


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.remove(f"{path}{ending}")

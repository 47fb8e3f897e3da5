"""Small notes beside the values in a store's file: bytes by key, checksummed.

What is damaged, of another version or under another key is no note. Only a file has notes: of a
shared store and a file in front of it, the file.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from functools import partial

from forwardcache.store.base import Store
from forwardcache.store.schema import NOTES, transaction
from forwardcache.store.sqlite import SQLiteStore
from forwardcache.store.tiers import Tiers

_MAGIC = b"fcn\x01"
_DIGEST_BYTES = 32
_MOST = 256
_IS_THERE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'notes'"


def takes_notes(store: Store) -> bool:
    """Whether a store has a file, which notes can be in."""
    return _file_of(store) is not None


def read_note(store: Store, key: bytes) -> bytes | None:
    """The note under ``key``; None if there is none that is whole.

    Args:
        store: Of any kind.
        key: 32 bytes.
    """
    file = _file_of(store)
    sealed = None if file is None else file._guarded(partial(_read, key=key))
    if not isinstance(sealed, bytes) or not sealed.startswith(_MAGIC):
        return None
    begin = len(_MAGIC) + _DIGEST_BYTES
    content = sealed[begin:]
    return content if sealed[len(_MAGIC) : begin] == _checksum(key, content) else None


def keep_note(store: Store, key: bytes, content: bytes) -> bool:
    """Writes a note over what was there; the oldest go where there are many.

    Args:
        store: Of any kind.
        key: 32 bytes.
        content: The note.

    Returns:
        Whether it is kept.
    """
    file = _file_of(store)
    if file is None:
        return False
    sealed = _MAGIC + _checksum(key, content) + content
    with file._lock:
        if not file._can_keep():
            return False
        return bool(file._guarded(partial(_write, key=key, sealed=sealed)))


def _file_of(store: Store) -> SQLiteStore | None:
    tiers = store.stores if isinstance(store, Tiers) else (store,)
    return next((each for each in tiers if isinstance(each, SQLiteStore)), None)


def _checksum(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()


def _read(connection: sqlite3.Connection, key: bytes) -> object:
    if connection.execute(_IS_THERE).fetchone() is None:
        return None
    row = connection.execute("SELECT sealed FROM notes WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _write(connection: sqlite3.Connection, key: bytes, sealed: bytes) -> bool:
    with transaction(connection):
        connection.execute(NOTES)
        connection.execute(
            "INSERT OR REPLACE INTO notes (key, written, sealed) VALUES (?, ?, ?)",
            (key, time.time(), sealed),
        )
        connection.execute(
            "DELETE FROM notes WHERE key NOT IN "
            "(SELECT key FROM notes ORDER BY written DESC LIMIT ?)",
            (_MOST,),
        )
    return True


__all__ = ["keep_note", "read_note", "takes_notes"]

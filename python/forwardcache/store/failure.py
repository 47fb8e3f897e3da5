"""What a failure of SQLite says about the file, and about what to try next."""

from __future__ import annotations

import errno
import sqlite3
from typing import ClassVar

from forwardcache.errors import InvalidInputError
from forwardcache.store.file import is_damage
from forwardcache.store.schema import Damaged

# After these a connection may hold locks that it could not give back, on which it would then wait
# for ten seconds in every call.
_ENDS_CONNECTION = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL})
# A part of the medium that can't be read is as good as one that was overwritten.
_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})
# A quota is none of SQLite's full disks.
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


class Failure(Exception):
    """Something that was asked of a store's file failed.

    Args:
        cause: What was raised; None if the store is closed.
        is_of_opening: Whether there was not even a connection.
    """

    # The second is SQLite's text that is no UTF-8 any more.
    CAUSES: ClassVar = (sqlite3.Error, UnicodeDecodeError, OSError, InvalidInputError, Damaged)

    def __init__(self, cause: Exception | None, *, is_of_opening: bool = False) -> None:
        super().__init__(str(cause))
        self.cause, self.is_of_opening = cause, is_of_opening

    @property
    def ends_connection(self) -> bool:
        """Whether the connection is to be made anew."""
        return self._code & 0xFF in _ENDS_CONNECTION

    @property
    def is_damage(self) -> bool:
        """Whether what was asked for is damaged, so that something else may be whole."""
        if self.cause is None or self.is_of_opening:
            return False
        return self._code in _UNREADABLE or is_damage(self.cause)

    @property
    def is_full(self) -> bool:
        """Whether there was no space."""
        if isinstance(self.cause, OSError):
            return self.cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return self._code in _FULL

    @property
    def may_spare_parts(self) -> bool:
        """Whether less may succeed where all at once failed."""
        return self.is_full or self.is_damage

    @property
    def _code(self) -> int:
        code: int = getattr(self.cause, "sqlite_errorcode", 0)
        return code

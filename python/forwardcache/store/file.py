"""One connection to a store's file, made again where it has to be.

A file may be replaced, moved or deleted by others while it is open: the operating system then goes
on writing into what no path leads to any more. So what was opened is remembered, and compared with
what the path names.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote

from forwardcache.errors import InvalidInputError
from forwardcache.store.schema import BUSY_S, Damaged, is_a_store, prepare, use_for_reading

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
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_RIGHT_CODES = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
_SIDES = ("-wal", "-shm")

# Device and number of a file, its log and its shared memory; None for one that isn't there.
Identity = tuple[tuple[int, int] | None, ...]


class StoreFile:
    """A store's file and the connection to it. Not locked.

    Args:
        path: The file, absolute.

    Attributes:
        is_only_read: Whether it can't be written, so that nothing is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_only_read = self._is_without_log = False
        self._connection: sqlite3.Connection | None = None
        # What was opened first: None before.
        self._opened: Identity | None = None
        self._changed_at = 0

    def open(self, take_over: Callable[[Path], int]) -> bool:
        """Opens the file, or makes it; one that is damaged as a whole is moved aside.

        Args:
            take_over: Called after another was begun, with the damaged file's new path; how many
                values it took from there.

        Returns:
            Whether the file that was there is moved aside.

        Raises:
            InvalidInputError: it is a file, and no store.
            OSError: it can't be opened or made.
        """
        try:
            self.connection()
        except (sqlite3.Error, UnicodeDecodeError, Damaged) as error:
            if not is_damage(error):
                raise OSError(f"can't open the store {self.path}: {error}") from error
            if not is_a_store(self.path):
                reason = f"{self.path} is no store of forwardcache's: name another file"
                raise InvalidInputError(reason) from error
            if self.is_only_read:
                raise OSError(f"can't read the store {self.path}: {error}") from error
            self._begin_anew(error, take_over)
            return True
        if self.is_only_read:
            warnings.warn(
                f"the store {self.path} can't be written: it is only read, and nothing is kept"
                f"{self._words_of_the_log()}",
                stacklevel=4,
            )
        return False

    def connection(self) -> sqlite3.Connection:
        """The connection, made if there is none."""
        if self._connection is None:
            self._connection = self._connect()
        elif self.is_only_read and self._changes() != self._changed_at:
            # What SQLite was told never to change has changed: others write it.
            self.disconnect()
            self._connection = self._connect()
        return self._connection

    def disconnect(self) -> None:
        """Closes the connection; the next call makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def is_in_place(self) -> bool:
        """Whether the path still names the file that was opened; sides that aren't are made anew.

        Without its log or its shared memory a connection goes on, and other processes would see
        nothing of it: a new connection brings what is in the log into the file and begins others.
        """
        now = self._identity()
        if self._opened is None or now[0] != self._opened[0]:
            return False
        if self._connection is not None and now != self._opened:
            self.disconnect()
        return True

    def _connect(self) -> sqlite3.Connection:
        if not self.is_only_read:
            try:
                return self._remembered(self._writable())
            except (OSError, sqlite3.Error) as error:
                if not self._lacks_right(error):
                    raise
                self.is_only_read = True
        self._changed_at = self._changes()
        return self._remembered(self._readable())

    def _writable(self) -> sqlite3.Connection:
        # Made here, so that nobody else can read it at any time; SQLite's side files take its mode.
        # Only once: a file that has gone since would be another one.
        making = os.O_CREAT if self._opened is None else 0
        os.close(os.open(self.path, os.O_RDWR | making | os.O_CLOEXEC, 0o600))
        return _prepared(
            sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            ),
            lambda connection: prepare(connection, self.path),
        )

    def _readable(self) -> sqlite3.Connection:
        """A connection to a file that can't be written.

        Where SQLite can't make the memory that a log is shared by, nobody else has the file open,
        or can have: then what is in the file itself is all that is read.
        """
        try:
            return self._only_reading("mode=ro")
        except sqlite3.OperationalError as error:
            if code_of(error) not in _NO_RIGHT_CODES:
                raise
        self._is_without_log = True
        return self._only_reading("mode=ro&immutable=1")

    def _words_of_the_log(self) -> str:
        """What to add of a log whose values aren't found, since no memory can be made for it."""
        log = Path(f"{self.path}-wal")
        with suppress(OSError):
            if self._is_without_log and (nbytes := log.stat().st_size):
                return (
                    f"; what is only in its log ({log.name}, {nbytes:,} bytes) isn't found: open "
                    "it once where it can be written, and copy it when it is closed"
                )
        return ""

    def _only_reading(self, how: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?{how}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        return _prepared(connection, lambda each: use_for_reading(each, self.path))

    def _lacks_right(self, error: Exception) -> bool:
        """Whether the file may be read, and only the right to write is missing."""
        is_refused = (
            error.errno in _NO_RIGHT
            if isinstance(error, OSError)
            else code_of(error) in _NO_RIGHT_CODES
        )
        can_write = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)
        return is_refused and not can_write and os.access(self.path, os.R_OK)

    def _remembered(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        now = self._identity()
        if self._opened is not None and now[0] != self._opened[0]:
            connection.close()
            raise OSError(f"{self.path} is another file than the one that was opened")
        self._opened = now
        return connection

    def _identity(self) -> Identity:
        return tuple(_identity(f"{self.path}{ending}") for ending in ("", *_SIDES))

    def _changes(self) -> int:
        with suppress(OSError):
            return os.stat(self.path).st_mtime_ns
        return 0

    def _begin_anew(self, error: Exception, take_over: Callable[[Path], int]) -> None:
        aside = _free_name(self.path.with_name(f"{self.path.name}.damaged"))
        os.replace(self.path, aside)
        for ending in _SIDES:
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{ending}", f"{aside}{ending}")
        self.connection()
        taken = take_over(aside)
        rest = f", with the {taken:,} values that can be read in it" if taken else ""
        warnings.warn(
            f"the store {self.path} can't be read ({error}): it is {aside} now, and another "
            f"begins{rest}",
            stacklevel=5,
        )


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is not what was written, and not that it can't be had."""
    return code_of(error) not in _NOT_DAMAGE


def code_of(error: Exception) -> int:
    """SQLite's code of an error; of one that isn't SQLite's, that for damage."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF


def open_damaged(path: Path) -> sqlite3.Connection:
    """A connection that only reads, to a file of which some part may be missing."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_S)
    # Otherwise SQLite refuses a file with fewer pages than its first one says.
    connection.execute("PRAGMA writable_schema = ON")
    return connection


def _prepared(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], None]
) -> sqlite3.Connection:
    try:
        work(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(name for name in chain([path], names) if not os.path.lexists(name))

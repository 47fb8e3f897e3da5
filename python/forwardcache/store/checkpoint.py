"""Brings a store's log into its file while the run goes on.

What is in the log is safe from a kill already. But it has to get into the file some time, and that
waits for the disk: a run that leaves it to its end waits for all of it there. So a thread does it
piece by piece on a connection of its own, which SQLite allows beside one that writes.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

EVERY_BYTES = 2**19
"""Of values that were put: what is left for the end takes some milliseconds."""


class Checkpoints:
    """The thread of one store, which is there only while it has something to do.

    Args:
        path: The store's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = 0
        self._thread: threading.Thread | None = None

    def count(self, nbytes: int) -> None:
        """Begins to bring what is in the log into the file, if that is worth a wait for the disk.

        Args:
            nbytes: Of values that were put since the last call.
        """
        self._bytes += nbytes
        if self._bytes < EVERY_BYTES or (self._thread is not None and self._thread.is_alive()):
            return
        self._bytes = 0
        thread = threading.Thread(target=self._run, name="forwardcache-checkpoint", daemon=True)
        # At the interpreter's end no thread can be begun; closing the store does the rest.
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def wait(self) -> None:
        """Returns when no connection of the thread's is open."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        # Whatever goes wrong here goes wrong again, and is told, where the store itself does it.
        with suppress(sqlite3.Error), closing(self._connection()) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _connection(self) -> sqlite3.Connection:
        # "rw": a file that has gone since isn't made again.
        return sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=rw", uri=True, timeout=0, isolation_level=None
        )

"""Traces that are read at the same time, be they more than a process may have open.

Up to ``MOST_OPEN`` files stay open. Of more each is open only while a block of it is read, and the
blocks are so small that those of all files together take no more memory than those of a few.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, TypeAlias

from forwardcache.observe.lines import BLOCK_BYTES, Readable

TraceSource: TypeAlias = str | os.PathLike[str] | BinaryIO
"""A path, or a file that is open for reading bytes."""

MOST_OPEN = 64
"""Most files that stay open while they are read together."""

_LEAST_BLOCK = 1 << 12
_BLOCKS_TOGETHER = 1 << 21


class Reopened:
    """A file that is open only while a block of it is read.

    Args:
        path: Of a regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._at = 0
        self._is: tuple[int, int] | None = None

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; none at the end.

        Raises:
            OSError: it can't be read, or is another file than before.
        """
        with open(self._path, "rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            if self._is not in {None, (now.st_dev, now.st_ino)}:
                raise OSError(errno.ESTALE, "replaced while it was read", os.fspath(self._path))
            self._is = now.st_dev, now.st_ino
            file.seek(self._at)
            data = file.read(size)
        self._at += len(data)
        return data


def opened(source: TraceSource, *, together: int = 1) -> AbstractContextManager[Readable]:
    """``source`` as a file; one that the caller opened stays open at the end.

    Args:
        source: A path or an open binary file.
        together: How many are read at the same time.

    Raises:
        OSError: the file can't be opened.
    """
    if not isinstance(source, str | os.PathLike):
        return nullcontext(source)
    # What isn't a regular file, such as a pipe, can't be opened where it was left.
    if together > MOST_OPEN and stat.S_ISREG(os.stat(source).st_mode):
        return nullcontext(Reopened(source))
    return open(source, "rb")


def block_bytes(together: int) -> int:
    """How much is read at a time of each of the files that are read ``together``."""
    return min(BLOCK_BYTES, max(_LEAST_BLOCK, _BLOCKS_TOGETHER // together))

"""The events of a file that grows, a look at a time.

What follows the last newline is kept for the next look: it is being written. A file that was
replaced or cut is read from its beginning, and the follower says so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from forwardcache._event import TraceLine
from forwardcache.observe.lines import BLANK, MAX_LINE_BYTES, TOO_LONG
from forwardcache.observe.parse import LostEvents, UnusableLineError, parse_line

LOOK_BYTES = 1 << 22
"""Most that is read in one look, so that a screen is drawn now and then."""


class _Left(NamedTuple):
    """Which file was left, and where."""

    device: int
    inode: int
    size: int
    at: int


class Follower:
    """Reads what came to a trace since the last look.

    Attributes:
        starts: How often reading began at the beginning; 0 as long as there is no file.
        skipped: Lines that can't be used, by reason; since the last start, as ``lost``.
        lost: Events that are missing, as the trace itself says.
    """

    def __init__(self, path: Path) -> None:
        self.starts = 0
        self.skipped: Counter[str] = Counter()
        self.lost = 0
        self._path = path
        self._file: BinaryIO | None = None
        self._left: _Left | None = None
        self._rest, self._in_long_line = b"", False

    @property
    def behind_bytes(self) -> int:
        """Bytes of the file that were not read yet."""
        if self._file is None:
            return 0 if self._left is None else max(0, self._left.size - self._left.at)
        return max(0, os.fstat(self._file.fileno()).st_size - self._file.tell())

    @property
    def is_replaced(self) -> bool:
        """Whether the file that was read is another one now, so that the next look begins anew."""
        return self.starts > 0 and self._is_other_file()

    def look(self, most_bytes: int = LOOK_BYTES) -> Iterator[TraceLine]:
        """The next events, at most those of ``most_bytes``; none where there is no file yet.

        Raises:
            OSError: the file can't be opened or read.
        """
        self._reopen()
        if self._is_other_file():
            self._start()
        if self._file is not None:
            for line in self._lines(self._file.read(most_bytes)):
                yield from self._event_of(line)

    def leave(self) -> None:
        """Close the file until the next look, which goes on where this one ended."""
        if self._file is not None:
            now = os.fstat(self._file.fileno())
            self._left = _Left(now.st_dev, now.st_ino, now.st_size, self._file.tell())
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen(self) -> None:
        if self._left is None or self._file is not None:
            return
        left, self._left = self._left, None
        with suppress(FileNotFoundError):
            file = self._path.open("rb")
            now = os.fstat(file.fileno())
            if (now.st_dev, now.st_ino) == (left.device, left.inode) and now.st_size >= left.at:
                file.seek(left.at)
                self._file = file
            else:
                file.close()

    def _is_other_file(self) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            # A file that was unlinked may still be written.
            return False
        if self._left is not None and self._file is None:
            same = (now.st_dev, now.st_ino) == (self._left.device, self._left.inode)
            return not same or now.st_size < self._left.at
        if self._file is None:
            return True
        return self._file.tell() > now.st_size or not os.path.samestat(
            now, os.fstat(self._file.fileno())
        )

    def _start(self) -> None:
        self.close()
        self._file = self._path.open("rb")
        self.starts += 1
        self.skipped.clear()
        self.lost, self._rest, self._in_long_line = 0, b"", False

    def _lines(self, data: bytes) -> Iterator[bytes]:
        if self._in_long_line:
            _, newline, data = data.partition(b"\n")
            self._in_long_line = not newline
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > MAX_LINE_BYTES:
                self.skipped[TOO_LONG] += 1
            elif not line or line.isspace():
                self.skipped[BLANK] += 1
            else:
                yield line
        if len(self._rest) > MAX_LINE_BYTES:
            self.skipped[TOO_LONG] += 1
            self._rest, self._in_long_line = b"", True

    def _event_of(self, line: bytes) -> Iterator[TraceLine]:
        try:
            said = parse_line(line)
        except UnusableLineError as error:
            self.skipped[error.reason] += 1
            return
        if isinstance(said, LostEvents):
            self.lost += said.events
        else:
            yield said

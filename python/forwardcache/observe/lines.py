"""The whole lines of a file, in bounded memory.

A line is whole when its newline is there. What follows the last newline is being written at
this moment, or was torn by a crash; either way nobody can say what it is going to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

MAX_LINE_BYTES = 1 << 20
"""Longest line that is read unless the caller says otherwise; one of ours has about 400 bytes."""


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most ``size``; none at the end."""


BLANK = "blank line"
TOO_LONG = "line too long"
UNFINISHED = "no newline at the end"

BLOCK_BYTES = 1 << 18
"""How much is read at a time."""


def line_blocks(
    file: Readable,
    skipped: Counter[str],
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[list[bytes]]:
    """The lines of ``file`` without their newlines, up to its last newline, a block at a time.

    Args:
        file: Read from its current position, in blocks; it need not be seekable.
        skipped: Counts what is left out, by reason.
        max_line_bytes: A longer line is left out and never held in memory as a whole.
        block_bytes: How much is read at a time.
    """
    rest, too_long = b"", False
    while block := file.read(block_bytes):
        if too_long:
            _, newline, block = block.partition(b"\n")
            too_long = not newline
        *lines, rest = (rest + block).split(b"\n")
        yield _fitting(lines, skipped, max_line_bytes)
        if len(rest) > max_line_bytes:
            skipped[TOO_LONG] += 1
            rest, too_long = b"", True
    if rest:
        skipped[UNFINISHED] += 1


def _fitting(lines: list[bytes], skipped: Counter[str], max_line_bytes: int) -> list[bytes]:
    if max(map(len, lines), default=0) <= max_line_bytes:
        return lines
    fitting = [line for line in lines if len(line) <= max_line_bytes]
    skipped[TOO_LONG] += len(lines) - len(fitting)
    return fitting

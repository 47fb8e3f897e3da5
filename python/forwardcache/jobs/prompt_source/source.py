"""A source of prompts: the filled lines of one file or of several, counted on from file to file.

What stays of an input is where its lines stand, so that any of them are read again without what
is before them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

from forwardcache.jobs.prompt_line import LineKind

BLOCK_LINES = 1024
"""Filled lines of a block."""


class Line(NamedTuple):
    """A line that isn't blank.

    Attributes:
        number: From 1, blank lines included, counted on over the files of a folder.
        raw: Its bytes without its end; of a table's row a JSON object.
    """

    number: int
    raw: bytes


class Offset(NamedTuple):
    """Where a line begins.

    Attributes:
        file: Which of the source's files, from 0.
        at: The byte there, or the row of a table.
        number: The number of the line.
    """

    file: int
    at: int
    number: int


BEGIN = Offset(0, 0, 1)


@dataclass(frozen=True, slots=True)
class Block:
    """Filled lines of one file that follow each other.

    Attributes:
        file: Which of the source's files.
        numbers: Of the lines.
        places: Where each begins: the byte in the file, or the row.
        raws: Their bytes.
    """

    file: int
    numbers: Sequence[int]
    places: Sequence[int]
    raws: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.raws)

    def offset(self, index: int) -> Offset:
        """Where a line of it begins.

        Args:
            index: Which, from 0.
        """
        return Offset(self.file, self.places[index], self.numbers[index])

    def first(self, count: int) -> Block:
        """The block without what follows its first lines."""
        if count >= len(self):
            return self
        return Block(self.file, self.numbers[:count], self.places[:count], self.raws[:count])


Lines: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[bytes]]
"""Numbers, places and bytes of lines, as of a ``Block``."""


class PromptFile(Protocol):
    """One file of a source."""

    @property
    def name(self) -> str:
        """What to call it in a message."""

    @property
    def kind(self) -> LineKind:
        """What its lines hold."""

    def read(self, at: int, number: int, size: int) -> Generator[Lines, None, int]:
        """Its filled lines from a place on.

        Args:
            at: Where a line begins; 0 for the file's first.
            number: The number of that line.
            size: How many lines are given at once, at most.

        Returns:
            The number of the line behind its last.
        """

    def digest(self) -> str:
        """SHA-256 of the file's bytes, hex."""

    def close(self) -> None:
        """Let go of what is open."""


class PromptSource(Protocol):
    """Prompts that are read as a stream, with bounded memory, and again from any place."""

    @property
    def name(self) -> str:
        """What to call it in a message."""

    @property
    def kind(self) -> LineKind:
        """What its lines hold."""

    def blocks(self, start: Offset = BEGIN, size: int = BLOCK_LINES) -> Iterator[Block]:
        """The filled lines from an offset on, so many at once.

        Raises:
            InvalidInputError: a file can't be read.
        """

    def lines(self, start: Offset = BEGIN) -> Iterator[Line]:
        """The same, one by one."""

    def block(self, start: Offset, count: int) -> list[Line]:
        """The next ``count`` filled lines from an offset on; fewer at the end."""

    def place(self, number: int) -> str:
        """Where a line stands that was read, for a message: its file, its number there."""

    @property
    def files(self) -> tuple[tuple[int, str], ...]:
        """Of a folder: the number of the first line of each file so far, and the file's name."""

    def digest(self) -> str:
        """SHA-256 of the bytes of a file, hex; of several that of their digests."""

    def close(self) -> None:
        """Let go of what is open and was set aside."""


class Files:
    """A source of one file, or of the files of a folder in their order.

    Args:
        name: What to call it.
        files: At least one.
        is_folder: Whether messages name the file that a line is in.

    Attributes:
        name: As given.
    """

    def __init__(self, name: str, files: Sequence[PromptFile], *, is_folder: bool = False) -> None:
        self.name = name
        self._files = files
        self._is_folder = is_folder
        # Of each file that was begun: the number of its first line.
        self._firsts = [1]

    @property
    def kind(self) -> LineKind:
        """What its lines hold."""
        return self._files[0].kind

    def blocks(self, start: Offset = BEGIN, size: int = BLOCK_LINES) -> Iterator[Block]:
        """As of ``PromptSource``."""
        at, number = start.at, start.number
        for index in range(start.file, len(self._files)):
            if index == len(self._firsts):
                self._firsts.append(number)
            found = self._files[index].read(at, number, size)
            number = yield from _blocks(index, found)
            at = 0

    def lines(self, start: Offset = BEGIN) -> Iterator[Line]:
        """As of ``PromptSource``."""
        for block in self.blocks(start):
            yield from map(Line, block.numbers, block.raws)

    def block(self, start: Offset, count: int) -> list[Line]:
        """As of ``PromptSource``."""
        found = self.blocks(start, max(1, min(count, BLOCK_LINES)))
        lines = (line for block in found for line in map(Line, block.numbers, block.raws))
        return list(islice(lines, count))

    @property
    def files(self) -> tuple[tuple[int, str], ...]:
        """As of ``PromptSource``."""
        begun = zip(self._firsts, self._files, strict=False) if self._is_folder else ()
        return tuple((first, each.name) for first, each in begun)

    def place(self, number: int) -> str:
        """As of ``PromptSource``."""
        if not self._is_folder:
            return f"{self.name} line {number}"
        index = bisect_right(self._firsts, number) - 1
        return f"{self._files[index].name} line {number - self._firsts[index] + 1}"

    def digest(self) -> str:
        """As of ``PromptSource``."""
        if not self._is_folder:
            return self._files[0].digest()
        digests = "".join(f"{each.digest()}\n" for each in self._files)
        return hashlib.sha256(digests.encode("ascii")).hexdigest()

    def close(self) -> None:
        """As of ``PromptSource``."""
        for each in self._files:
            each.close()


def _blocks(index: int, found: Generator[Lines, None, int]) -> Generator[Block, None, int]:
    """Lines of a file as blocks; what its reader returns."""
    while True:
        try:
            lines = next(found)
        except StopIteration as ended:
            return int(ended.value)
        yield Block(index, *lines)

"""The chunks of a plan, of which each takes some tens of bytes and each prompt four."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import overload

from forwardcache.jobs.prompt_source.source import Offset

_DIGEST_BYTES = 32
_WIDTHS = "BHIQ"


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """Prompts that are scored together.

    Attributes:
        index: Which chunk, from 0.
        first: How many prompts are before it.
        offset: Where its first line begins.
        runs: Its lines: the first of some that follow each other, and how many they are.
        lengths: Tokens of each prompt.
        content: What its name is made of: the digest of its lines, 32 bytes.
    """

    index: int
    first: int
    offset: Offset
    runs: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    content: bytes

    @property
    def numbers(self) -> Iterable[int]:
        """The numbers of its lines, in order."""
        return chain.from_iterable(range(first, first + count) for first, count in self.runs)


class ChunkTable(Sequence[ChunkSpec]):
    """Chunks in order; what is asked for is made anew each time."""

    def __init__(self) -> None:
        self._files, self._places, self._numbers = array("I"), array("Q"), array("Q")
        # Prompts before each chunk, and of all.
        self._edges = array("Q", [0])
        self._contents = bytearray()
        self._lengths = array("I")
        # Of the chunks whose lines don't follow each other.
        self._broken: dict[int, bytes] = {}

    def append(
        self, offset: Offset, numbers: Sequence[int], lengths: Iterable[int], content: bytes
    ) -> None:
        """Adds a chunk.

        Args:
            offset: As of ``ChunkSpec``, as is ``content``.
            numbers: Of its lines, at least one.
            lengths: Tokens of each.
            content: The digest of the lines.
        """
        if numbers[-1] - numbers[0] >= len(numbers):
            self._broken[len(self)] = _packed(_runs(numbers))
        self._files.append(offset.file)
        self._places.append(offset.at)
        self._numbers.append(offset.number)
        self._contents += content
        self._lengths.extend(lengths)
        self._edges.append(len(self._lengths))

    @property
    def prompts(self) -> int:
        """Prompts in all chunks."""
        return len(self._lengths)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> ChunkSpec: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ChunkSpec]: ...

    def __getitem__(self, index: int | slice) -> ChunkSpec | Sequence[ChunkSpec]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        begin, end = self._edges[at], self._edges[at + 1]
        number = self._numbers[at]
        packed = self._broken.get(at)
        return ChunkSpec(
            at,
            begin,
            Offset(self._files[at], self._places[at], number),
            ((number, end - begin),) if packed is None else tuple(_unpacked(packed)),
            tuple(self._lengths[begin:end]),
            bytes(self._contents[at * _DIGEST_BYTES : (at + 1) * _DIGEST_BYTES]),
        )


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers that follow each other: the first, and how many."""
    edges = [at for at, (one, other) in enumerate(pairwise(numbers), 1) if other != one + 1]
    return [(numbers[begin], end - begin) for begin, end in pairwise([0, *edges, len(numbers)])]


def _packed(runs: Iterable[tuple[int, int]]) -> bytes:
    """Runs as steps from the end of one to the next, in as few bytes as the largest step needs.

    The first step is a number of a line, and would make all others as wide: it stands before them.
    """
    steps, end = [], 0
    for first, count in runs:
        steps += [first - end, count]
        end = first + count
    code = next(code for code in _WIDTHS if max(steps[1:]) >> 8 * array(code).itemsize == 0)
    return array("Q", steps[:1]).tobytes() + code.encode() + array(code, steps[1:]).tobytes()


def _unpacked(packed: bytes) -> Iterator[tuple[int, int]]:
    """The runs that ``_packed`` was called on."""
    width = array("Q").itemsize
    first, later = array("Q", packed[:width]), array(chr(packed[width]), packed[width + 1 :])
    steps, end = iter([*first, *later]), 0
    for step, count in zip(steps, steps, strict=True):
        yield end + step, count
        end += step + count

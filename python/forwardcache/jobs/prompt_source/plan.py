"""A job's chunks out of a stream: what is kept of a prompt is its length.

Lines are read once for their lengths, block by block; they come back in order, and whatever is
complete becomes a chunk: the same chunks as in one process. A chunk's lines are read again from
where they begin when they are needed.

A chunk is known by what is in it. Its name is a digest of the job and of its lines as they stand,
and of nothing about where they stand: two equal chunks have one name, and a line above changes none
of those below it whose prompts stay together.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.job import Cutter
from forwardcache.jobs.prompt_line import PROMPTS, InputWords, LineError, LineKind, parse_line
from forwardcache.jobs.prompt_source.chunk_table import ChunkSpec, ChunkTable
from forwardcache.jobs.prompt_source.source import BEGIN, Block, Offset, PromptSource
from forwardcache.jobs.skips import OnError, Skipped, nothing_left

__all__ = ["ChunkSpec", "Plan", "content_of", "name_of"]


class Plan:
    """The chunks of a source, as far as its lengths are known.

    ``blocks`` reads, ``add`` takes the lengths of each block in that order, ``finish`` ends it. Of
    the source no more is held than the blocks whose lengths aren't known yet, and one chunk.

    Args:
        source: Where the prompts are; it stays open while lines are asked for.
        limit: How many filled lines are read, from the first; None for all.
        on_error: Whether a line without a length is skipped.
        words: What the input is called.

    Attributes:
        source: As given.
        tokens: Of all prompts so far.
        longest: Tokens of the longest.
        skipped: The lines without a length, in order.
        digest: That of the source as it was read, once all of it is.
    """

    def __init__(
        self,
        source: PromptSource,
        *,
        limit: int | None = None,
        on_error: OnError = "fail",
        words: InputWords = PROMPTS,
    ) -> None:
        self.source = source
        self._limit, self._on_error, self._words = limit, on_error, words
        self._waiting: deque[Block] = deque()
        self._cutter, self._open = Cutter(), _OpenChunk()
        self._chunks = ChunkTable()
        self.tokens = self.longest = 0
        self.digest = ""
        self.skipped: list[Skipped] = []

    @property
    def prompts(self) -> int:
        """Prompts in the chunks so far."""
        return self._chunks.prompts

    def blocks(self) -> Iterator[Block]:
        """The lines, once; each block waits here for its lengths.

        Raises:
            InvalidInputError: the source can't be read.
        """
        left = self._limit
        for whole in self.source.blocks():
            block = whole if left is None else whole.first(left)
            self._waiting.append(block)
            yield block
            if left is not None and (left := left - len(block)) == 0:
                return

    def add(self, found: Sequence[int | str]) -> None:
        """Takes the lengths of the first block that has none.

        Args:
            found: Of each line its tokens, or why it can't be scored.

        Raises:
            InvalidInputError: a line has none and isn't to be skipped; its file and line are named.
            ValueError: they are not as many as the block's lines.
        """
        block = self._waiting.popleft()
        if len(found) != len(block):
            raise ValueError(f"{len(found)} lengths of {len(block)} lines")
        kept: Sequence[int] = range(len(found))
        lengths = [each for each in found if type(each) is int]
        if len(lengths) < len(block):
            kept = [at for at, each in enumerate(found) if isinstance(each, int)]
            lengths = [each for each in found if isinstance(each, int)]
            self._skip(block, found)
        self.tokens += sum(lengths)
        self.longest = max(self.longest, *lengths, 0)
        begin = 0
        for cut in self._cutter.cuts(lengths):
            self._open.take(block, kept[begin:cut], lengths[begin:cut])
            self._close()
            begin = cut
        self._open.take(block, kept[begin:], lengths[begin:])

    def finish(self) -> None:
        """Makes the last chunk: all lengths are known.

        Raises:
            InvalidInputError: there is no prompt.
        """
        # Now, of what was read: the source may grow until all of it is scored.
        self.digest = self.source.digest()
        if self._open.raws:
            self._close()
        if not self._chunks:
            raise nothing_left(self.source.name, self.skipped, one=self._words.one)

    def read(self, lengths_of: Callable[[Block], Sequence[int | str]]) -> None:
        """All of it in one go.

        Args:
            lengths_of: Gives what ``add`` takes.

        Raises:
            InvalidInputError: as of ``blocks``, ``add`` and ``finish``.
        """
        for block in self.blocks():
            self.add(lengths_of(block))
        self.finish()

    def chunks(self) -> Sequence[ChunkSpec]:
        """The chunks that are complete; all of them once it is finished."""
        return self._chunks

    def lines_of(self, chunk: ChunkSpec) -> list[bytes]:
        """The lines of a chunk, read again.

        Raises:
            InvalidInputError: they are no longer what they were.
        """
        [(first, count), *others] = chunk.runs
        found = self._following(chunk.offset, count) if not others else self._chosen(chunk)
        if content_of(self.source.kind, found) != chunk.content:
            raise InvalidInputError(
                f"{self.source.place(first)}: the {self._words.one}s from there on changed while "
                "they were scored"
            )
        return found

    def name_of(self, chunk: ChunkSpec, job_digest: str) -> str:
        """The name of what a job makes of a chunk; see ``name_of`` of this module."""
        return name_of(chunk.content, job_digest)

    def _following(self, offset: Offset, count: int) -> list[bytes]:
        """The next filled lines from an offset on; fewer at the end."""
        found: list[bytes] = []
        for block in self.source.blocks(offset, count):
            found += block.raws
            if len(found) >= count:
                break
        return found[:count]

    def _chosen(self, chunk: ChunkSpec) -> list[bytes]:
        """Lines of which some between them are no prompts."""
        wanted = set(chunk.numbers)
        last = max(wanted)
        blocks = self.source.blocks(chunk.offset, len(wanted))
        lines = (line for block in blocks for line in zip(block.numbers, block.raws, strict=True))
        until = takewhile(lambda line: line[0] <= last, lines)
        return [raw for number, raw in until if number in wanted]

    def _close(self) -> None:
        chunk = self._open
        content = content_of(self.source.kind, chunk.raws)
        self._chunks.append(chunk.offset, chunk.numbers, chunk.lengths, content)
        self._open = _OpenChunk()

    def _skip(self, block: Block, found: Sequence[int | str]) -> None:
        for number, raw, reason in zip(block.numbers, block.raws, found, strict=True):
            if isinstance(reason, int):
                continue
            if self._on_error == "fail":
                raise InvalidInputError(f"{self.source.place(number)}: {reason}")
            named = _id_of(raw, number, self.source.kind, self._words)
            self.skipped.append(Skipped(number, named, reason))


class _OpenChunk:
    """The prompts since the last chunk."""

    def __init__(self) -> None:
        self.offset: Offset = BEGIN
        self.numbers: list[int] = []
        self.raws: list[bytes] = []
        self.lengths: list[int] = []

    def take(self, block: Block, kept: Sequence[int], lengths: Sequence[int]) -> None:
        """Adds lines of a block, by their positions in it."""
        if kept and not self.raws:
            self.offset = block.offset(kept[0])
        self.numbers += [block.numbers[at] for at in kept]
        self.raws += [block.raws[at] for at in kept]
        self.lengths += lengths


def content_of(kind: LineKind, raws: Sequence[bytes]) -> bytes:
    """The digest of lines, 32 bytes: equal for equal lines in the same order, wherever they stand.

    Args:
        kind: What they hold.
        raws: Their bytes.
    """
    sizes = struct.pack(f"<{len(raws)}Q", *map(len, raws))
    head = struct.pack("<4sQ", kind.encode("ascii"), len(raws))
    return hashlib.sha256(b"".join([head, sizes, *raws])).digest()


def name_of(content: bytes, job_digest: str) -> str:
    """The name of what a job makes of lines: 64 hexadecimal digits.

    Args:
        content: As ``content_of`` gives it.
        job_digest: Of everything else that decides the result.
    """
    job = job_digest.encode("utf-8")
    framed = [struct.pack("<Q", len(each)) + each for each in (job, content)]
    return hashlib.sha256(b"".join(framed)).hexdigest()


def _id_of(raw: bytes, number: int, kind: LineKind, words: InputWords) -> str | float | bool:
    """What the rows of a line would have had as their id."""
    try:
        return parse_line(raw, number, kind, words).id
    except LineError as error:
        return number if error.id is None else error.id

"""``read_trace``: the events of trace files, and counts of everything else in them."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isnan
from types import MappingProxyType, TracebackType
from typing import Self, cast

from forwardcache._event import TraceLine
from forwardcache.observe.lines import BLANK, MAX_LINE_BYTES, line_blocks
from forwardcache.observe.opened import TraceSource, block_bytes, opened
from forwardcache.observe.parse import LostEvents, UnusableLineError, parse_line, plain_events


@dataclass(slots=True)
class Counts:
    """What was met besides events, and how many of those.

    Attributes:
        read: Events.
        lost: Events that are missing, as the trace itself says.
        skipped: Lines that can't be used, by reason.
    """

    read: int = 0
    lost: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class TraceReader(Iterator[TraceLine]):
    """An iterator over events that also counts; made by :func:`read_trace`.

    The counts are those of what was read so far, so they are complete at the end.
    """

    def __init__(self, blocks: Iterable[Iterable[TraceLine]], counts: Counts) -> None:
        self._counts = counts
        self._events = _counted(blocks, counts)

    def __iter__(self) -> Iterator[TraceLine]:
        # Not the object itself: a loop over the generator needn't call __next__ for every event.
        return self._events

    def __next__(self) -> TraceLine:
        return next(self._events)

    @property
    def read(self) -> int:
        """Events that were given out."""
        return self._counts.read

    @property
    def lost(self) -> int:
        """Events that are missing because they could not be written, as the trace itself says."""
        return self._counts.lost

    @property
    def skipped(self) -> Mapping[str, int]:
        """Lines that can't be used, by reason; a live view."""
        return MappingProxyType(self._counts.skipped)

    def close(self) -> None:
        """Stop early: the files that are open are closed."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_trace(
    paths: TraceSource | Iterable[TraceSource],
    *,
    merge: bool = False,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> TraceReader:
    """Read events from one trace or several, also while they are being written.

    Lines that can't be used cost no other line: they are left out and counted by reason. What
    follows a file's last newline is left out too, since it may be half a line.

    Args:
        paths: A path or an open binary file, or several. A file that the caller opened is read
            from its current position and stays open.
        merge: Read several by time instead of one after the other. Each file keeps its own order,
            and with it the order of each thread, also where the clock stepped back. Equal times
            are taken in the order of ``paths``. Of more than 64 files each is open only while a
            block of it is read.
        max_line_bytes: A longer line is skipped, and never held in memory as a whole.

    Returns:
        An iterator over the events, in memory that does not grow with the files, with ``read``,
        ``lost`` and ``skipped``.

    Raises:
        OSError: a path isn't there; or, while iterating, a file can't be opened or read.
    """
    sources = _as_sources(paths)
    for source in sources:
        if isinstance(source, str | os.PathLike):
            os.stat(source)
    counts = Counts()
    together = len(sources) if merge else 1
    files = [_blocks_of(source, counts, max_line_bytes, together) for source in sources]
    blocks: Iterable[Iterable[TraceLine]] = chain.from_iterable(files)
    if merge:
        blocks = [heapq.merge(*map(chain.from_iterable, files), key=time_of)]
    return TraceReader(blocks, counts)


def usable_lines(
    source: TraceSource,
    counts: Counts,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    together: int = 1,
) -> Iterator[tuple[bytes, TraceLine | LostEvents]]:
    """The lines of one trace that can be used, without their newlines, and what they say.

    Args:
        source: A path or an open binary file.
        counts: Lines that can't be used are counted in ``skipped``.
        max_line_bytes: A longer line is skipped.
        together: How many traces are read at the same time.

    Raises:
        OSError: the file can't be opened or read.
    """
    size = block_bytes(together)
    with opened(source, together=together) as file:
        for lines in line_blocks(
            file, counts.skipped, max_line_bytes=max_line_bytes, block_bytes=size
        ):
            for line, event in zip(lines, plain_events(lines), strict=True):
                if (said := event or _judged(line, counts)) is not None:
                    yield line, said


def _judged(line: bytes, counts: Counts) -> TraceLine | LostEvents | None:
    if not line or line.isspace():
        counts.skipped[BLANK] += 1
        return None
    try:
        return parse_line(line)
    except UnusableLineError as error:
        counts.skipped[error.reason] += 1
        return None


def time_of(said: TraceLine | LostEvents) -> float:
    """When to merge a line: where nobody knows the time, at once after the line before it."""
    return -inf if isnan(said.ts) else said.ts


def _as_sources(paths: TraceSource | Iterable[TraceSource]) -> Sequence[TraceSource]:
    # An open file is an iterable too, of its lines.
    if isinstance(paths, str | os.PathLike) or hasattr(paths, "read"):
        return [cast(TraceSource, paths)]
    return list(paths)


def _blocks_of(
    source: TraceSource, counts: Counts, max_line_bytes: int, together: int
) -> Iterator[Iterable[TraceLine]]:
    size = block_bytes(together)
    with opened(source, together=together) as file:
        for lines in line_blocks(
            file, counts.skipped, max_line_bytes=max_line_bytes, block_bytes=size
        ):
            events = plain_events(lines)
            # Events are true, and asking so costs least.
            if all(events):
                yield cast(list[TraceLine], events)
            else:
                yield _usable(lines, events, counts)


def _usable(
    lines: list[bytes], events: list[TraceLine | None], counts: Counts
) -> Iterator[TraceLine]:
    for line, event in zip(lines, events, strict=True):
        said = event or _judged(line, counts)
        if isinstance(said, LostEvents):
            counts.lost += said.events
        elif said is not None:
            yield said


def _counted(blocks: Iterable[Iterable[TraceLine]], counts: Counts) -> Generator[TraceLine]:
    for block in blocks:
        for event in block:
            counts.read += 1
            yield event

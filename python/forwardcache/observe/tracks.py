"""How calls are laid out in a thread's track: inside each other or one after the other.

A trace has the end of a call and how long it took. Both are right, but the end is a double of
seconds since the epoch, a quarter of a microsecond coarse, and the clock may be set back. So two
calls that followed each other may seem to overlap, which a viewer of tracks can't draw.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_MOST_REMEMBERED = 1 << 16
_JITTER_NS = 1_000_000


class Span(NamedTuple):
    """From when to when, in nanoseconds.

    Attributes:
        start: When it began.
        end: When it ended; not before ``start``.
    """

    start: int
    end: int


class Slot(NamedTuple):
    """The slot of a call in its track.

    Attributes:
        span: From when to when.
        free: When the last of the calls inside it ended; its start, without any.
    """

    span: Span
    free: int


class Clock:
    """The time of one session, made steady: where its clock was set back, it goes on instead."""

    def __init__(self) -> None:
        self._shift = 0

    def steady(self, span: Span, after: int) -> Span:
        """``span`` as the viewer gets it.

        Args:
            span: As the trace has it.
            after: When the call before it in its thread ended, in the viewer's time.
        """
        behind = after - (span.end + self._shift)
        if behind > _JITTER_NS:
            self._shift += behind
        return Span(span.start + self._shift, span.end + self._shift)


class Track:
    """The calls of one thread, given in the order in which they ended."""

    def __init__(self) -> None:
        # Those that a later call may turn out to contain.
        self._outermost: deque[Span] = deque(maxlen=_MOST_REMEMBERED)
        self.end = 0
        """When the last call ended."""

    def insert(self, span: Span) -> Slot:
        """Insert the next call, around the calls that happened while it went on.

        A call before belongs to this one if its middle does.
        """
        start, end = span.start, max(span.end, self.end)
        free = start
        while self._outermost and sum(self._outermost[-1]) > 2 * start:
            inner = self._outermost.pop()
            # Of two slices that begin together a viewer can't tell which is the outer one.
            start, free = min(start, inner.start - 1), max(free, inner.end)
        if self._outermost:
            start = max(start, self._outermost[-1].end)
        return self._taken(Span(start, end), max(start, free))

    def append(self, span: Span) -> Slot:
        """Append the next call after all others, though it may have begun before they ended."""
        start = max(span.start, self.end)
        return self._taken(Span(start, max(span.end, start)), start)

    def _taken(self, span: Span, free: int) -> Slot:
        self._outermost.append(span)
        self.end = span.end
        return Slot(span, free)

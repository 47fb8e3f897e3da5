"""A trace as trace-event JSON, which Perfetto and ``chrome://tracing`` open.

A session is a process, a thread a track, a call a slice. A batch is a slice around those of its
prompts, which share its time as their ``wall_ms`` does. Slices of a track never overlap: they are
nested or follow each other (``tracks``). What was measured is in a slice's ``args``.

Lines that name no session or no thread, of some other writer, share a track, one after the other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from math import inf, isfinite, isnan, nextafter
from operator import attrgetter
from typing import Any, NamedTuple

from forwardcache._event import TraceLine
from forwardcache.observe.tracks import Clock, Slot, Span, Track

NO_TIME = "no time"
TOO_EARLY = "more than a day before the first"

# A double holds nanoseconds of some months, but not those since 1970. A batch of another thread
# may be later in the file than the first event and have begun earlier.
_BEFORE_FIRST_NS = 86_400 * 1_000_000_000
_LAST_SECOND = 2**63 / 1e9

# Perfetto reads a number with more of them as another one, a dozen times as large.
_MOST_DECIMALS = 19

_HALF_PAIR = re.compile("[\ud800-\udfff]")

_ARGS = ("probe", "view_id", "op", "top_k", "hit", "wall_ms", "prompt_hash", "key", "bytes")
_FURTHER_ARGS = ("error", "waited", "batch", "seq")
_args_of, _further_args_of = attrgetter(*_ARGS), attrgetter(*_FURTHER_ARGS)


def chrome_trace(events: Iterable[TraceLine], left_out: Counter[str]) -> Iterator[str]:
    """The text of a trace-event JSON object, piece by piece.

    Args:
        events: Those of a thread in their order; what ``read_trace`` gives.
        left_out: Counts events without a usable time, by reason.

    Yields:
        Pieces of text; together one JSON object, in UTF-8 as a file. Names are in it as they are,
        since Perfetto shows an escape as its letters; half a surrogate pair, which UTF-8 doesn't
        have, is U+FFFD. Memory grows with the largest batch and the number of threads only.
    """
    separator = '{"displayTimeUnit": "ms", "traceEvents": [\n'
    for entry in _Export(left_out).entries(events):
        yield separator + _HALF_PAIR.sub("\ufffd", json.dumps(entry, ensure_ascii=False))
        separator = ",\n"
    yield "\n]}\n" if separator == ",\n" else separator + "]}\n"


class _Timed(NamedTuple):
    """An event and its own time."""

    event: TraceLine
    span: Span


class _Thread:
    """A track, and the batch whose events are still coming."""

    def __init__(self, pid: int, tid: int, clock: Clock, *, is_thread: bool) -> None:
        self.ids = {"pid": pid, "tid": tid}
        self.is_thread = is_thread
        self.batch: list[_Timed] = []
        self._clock, self._track = clock, Track()

    def insert(self, span: Span) -> Slot:
        steady = self._clock.steady(span, self._track.end)
        return self._track.insert(steady) if self.is_thread else self._track.append(steady)

    def continues(self, event: TraceLine) -> bool:
        return bool(self.batch) and event.batch == self.batch[-1].event.batch


class _Session:
    """A process of the viewer."""

    def __init__(self, pid: int) -> None:
        self.pid, self.clock = pid, Clock()
        self.threads: dict[int | None, _Thread] = {}


class _Export:
    """Events in, entries of ``traceEvents`` out."""

    def __init__(self, left_out: Counter[str]) -> None:
        self._left_out = left_out
        self._sessions: dict[str | None, _Session] = {}
        self._origin: int | None = None

    def entries(self, events: Iterable[TraceLine]) -> Iterator[dict[str, Any]]:
        for event in events:
            if (span := self._span_of(event)) is not None:
                yield from self._entries_of(_Timed(event, span))
        for session in self._sessions.values():
            for thread in session.threads.values():
                yield from _end_batch(thread)

    def _entries_of(self, timed: _Timed) -> Iterator[dict[str, Any]]:
        event = timed.event
        if (thread := self._known_thread(event)) is None:
            thread = self._new_thread(event)
            yield from _names_of(thread, event)
        if not thread.continues(event):
            yield from _end_batch(thread)
        if thread.is_thread and event.batch is not None:
            thread.batch.append(timed)
        else:
            yield _slice_of(event, thread.insert(timed.span).span, thread)

    def _known_thread(self, event: TraceLine) -> _Thread | None:
        session = self._sessions.get(event.run)
        return None if session is None else session.threads.get(event.thread)

    def _new_thread(self, event: TraceLine) -> _Thread:
        session = self._sessions.setdefault(event.run, _Session(len(self._sessions) + 1))
        # A negative number would be taken for none, and two threads of a session differ in any
        # case.
        tid = len(session.threads) + 1
        is_thread = event.run is not None and event.thread is not None
        thread = _Thread(session.pid, tid, session.clock, is_thread=is_thread)
        session.threads[event.thread] = thread
        return thread

    def _span_of(self, event: TraceLine) -> Span | None:
        if not 0 <= event.ts < _LAST_SECOND:
            self._left_out[NO_TIME] += 1
            return None
        end = round(event.ts * 1e9)
        start = end - _nanoseconds(event.wall_ms)
        if self._origin is None:
            self._origin = start - _BEFORE_FIRST_NS
        if min(start, end - _nanoseconds(event.batch_wall_ms or 0.0)) < self._origin:
            self._left_out[TOO_EARLY] += 1
            return None
        return Span(start - self._origin, end - self._origin)


def _nanoseconds(wall_ms: float) -> int:
    return max(0, round(wall_ms * 1e6)) if isfinite(wall_ms) else 0


def _end_batch(thread: _Thread) -> Iterator[dict[str, Any]]:
    """The batch that is complete, if there is one: its own slice, then those of its prompts."""
    batch, thread.batch = thread.batch, []
    if not batch:
        return
    groups = [list(members) for _, members in groupby(batch, key=_group_of)]
    spans = [_span_of_group(group) for group in groups]
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    slot = thread.insert(Span(start, end))
    yield _batch_slice(batch, slot.span, thread)
    # The clock's shift, if there is one, is that of the whole.
    shift = slot.span.end - end
    free = slot.free
    for group, span in zip(groups, spans, strict=True):
        shared = Span(max(free, span.start + shift), max(free, span.end + shift))
        free = shared.end
        for timed, part in zip(group, _parts_of(shared, len(group)), strict=True):
            yield _slice_of(timed.event, part, thread)


def _group_of(timed: _Timed) -> tuple[object, ...]:
    """What the prompts that were looked up or computed together have in common."""
    event = timed.event
    return event.ts, event.hit, event.batch_size, event.batch_wall_ms


def _span_of_group(group: list[_Timed]) -> Span:
    last = group[-1]
    whole = last.event.batch_wall_ms
    wall = sum(timed.span.end - timed.span.start for timed in group)
    # A part of a group may be in this file and the rest lost.
    wall = wall if whole is None else max(wall, _nanoseconds(whole))
    return Span(last.span.end - wall, last.span.end)


def _parts_of(span: Span, number: int) -> Iterator[Span]:
    length = span.end - span.start
    for at in range(number):
        yield Span(span.start + length * at // number, span.start + length * (at + 1) // number)


def _names_of(thread: _Thread, event: TraceLine) -> Iterator[dict[str, Any]]:
    run = "lines that name no run" if event.run is None else f"run {event.run}"
    name = "lines that name no thread" if event.thread is None else f"thread {event.thread}"
    yield {"ph": "M", **thread.ids, "name": "process_name", "args": {"name": run}}
    yield {"ph": "M", **thread.ids, "name": "thread_name", "args": {"name": name}}


def _slice_of(event: TraceLine, span: Span, thread: _Thread) -> dict[str, Any]:
    outcome = outcome_of(event)
    args = dict(zip(_ARGS, _args_of(event), strict=True))
    # JSON has no NaN, which is what a line without a time says.
    args["wall_ms"] = None if isnan(event.wall_ms) else round(event.wall_ms, _MOST_DECIMALS)
    for name, value in zip(_FURTHER_ARGS, _further_args_of(event), strict=True):
        if value is not None and value is not False:
            args[name] = value
    return _slice(thread, span, f"{outcome} {event.view_id} {event.op}", outcome, args)


def outcome_of(event: TraceLine) -> str:
    """What came of an event, in a word.

    Args:
        event: A line of a trace.

    Returns:
        ``hit``, ``waited`` (a hit that another thread computed), ``failed`` or ``computed``.
    """
    if event.hit:
        return "waited" if event.waited else "hit"
    return "computed" if event.error is None else "failed"


def _batch_slice(batch: list[_Timed], span: Span, thread: _Thread) -> dict[str, Any]:
    first = batch[0].event
    outcomes = Counter(outcome_of(timed.event) for timed in batch)
    name = f"batch of {len(batch)} {first.view_id} {first.op}"
    args = {"batch": first.batch, "probe": first.probe, "prompts": len(batch), **outcomes}
    return _slice(thread, span, name, "batch", args)


def _slice(
    thread: _Thread, span: Span, name: str, category: str, args: dict[str, Any]
) -> dict[str, Any]:
    times = {"ts": _microseconds(span.start), "dur": _microseconds(span.end - span.start)}
    return {"ph": "X", **thread.ids, **times, "name": name, "cat": category, "args": args}


def _microseconds(nanoseconds: int) -> float:
    """A double that is those nanoseconds also for a viewer that cuts off instead of rounding.

    Otherwise a slice could end a nanosecond after the one around it.
    """
    value = nanoseconds / 1000
    return value if int(value * 1000) == nanoseconds else nextafter(value, inf)

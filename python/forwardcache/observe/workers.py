"""Traces of several workers, read one after the other: each once, and no event twice."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from forwardcache._event import TraceLine
from forwardcache.observe.opened import TraceSource
from forwardcache.observe.reader import TraceReader, read_trace


@dataclass(frozen=True, slots=True)
class WorkerTrace:
    """The trace of one worker.

    Attributes:
        worker: What the worker is called.
        source: A path or an open binary file.
    """

    worker: str
    source: TraceSource


class SameEventsError(ValueError):
    """Two files have the same events."""


class Sessions:
    """Which events of which session were read, and from where.

    A session's lines are in one file, or in several after each other where a file was moved away
    while it was written. Two files with the same lines are one that was copied, or merged.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[int, int, str]]] = {}

    def add(self, name: str, spans: Spans) -> None:
        """Take in the events of the file ``name``.

        Raises:
            SameEventsError: a file before had the same events.
        """
        for run, (first, last) in spans.by_run.items():
            known = self._known.setdefault(run, [])
            for begin, end, other in known:
                if begin <= last and first <= end:
                    raise SameEventsError(
                        f"{other} and {name} both have events of session {run}: one is a copy, or "
                        "was merged from the other; give each event once"
                    )
            known.append((first, last, name))


class Spans:
    """Of each session the first and the last event, by their numbers.

    Attributes:
        by_run: They, by the session's name.
    """

    def __init__(self) -> None:
        self.by_run: dict[str, list[int]] = {}

    def add(self, event: TraceLine) -> None:
        """Take in one event; one that has no number isn't told from others."""
        if event.run is None or event.seq is None:
            return
        if (span := self.by_run.get(event.run)) is None:
            self.by_run[event.run] = [event.seq, event.seq]
        elif event.seq > span[1]:
            span[1] = event.seq
        elif event.seq < span[0]:
            span[0] = event.seq


@dataclass(frozen=True, slots=True)
class WorkerEvents:
    """The events of one worker.

    Attributes:
        worker: What the worker is called.
        events: What ``reader`` gives, watched.
        reader: Has the counts.
    """

    worker: str
    events: Iterator[TraceLine]
    reader: TraceReader


def read_workers(traces: Sequence[WorkerTrace]) -> Iterator[WorkerEvents]:
    """The events of each worker, one after the other, so that one file is open at a time.

    Raises:
        OSError: while iterating: a file can't be opened or read.
        SameEventsError: at a worker's end: another one had the same events.
    """
    sessions = Sessions()
    for trace in traces:
        with read_trace(trace.source) as reader:
            events = _watched(reader, str(trace.source), sessions)
            yield WorkerEvents(trace.worker, events, reader)


def _watched(reader: TraceReader, name: str, sessions: Sessions) -> Generator[TraceLine]:
    spans = Spans()
    for event in reader:
        spans.add(event)
        yield event
    sessions.add(name, spans)

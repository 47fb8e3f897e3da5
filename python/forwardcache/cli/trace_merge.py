"""``forwardcache trace merge``: several traces into one, by time.

Lines are copied byte for byte, each file's in its own order, so the order of each thread is kept
also where the clock stepped back. A line that can't be used as an event (see ``observe``) has no
time and is left out. Two files that have the same events are refused. The new file gets its name
only when it is whole and on disk.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from forwardcache._event import TraceLine
from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.trace import counted, reasons
from forwardcache.cli.trace_paths import events_once, say_what_is_pending, source_of, traces_of
from forwardcache.jobs.whole_file import Part, check_out, whole_file
from forwardcache.observe.parse import LostEvents
from forwardcache.observe.reader import Counts, time_of, usable_lines
from forwardcache.observe.workers import Sessions, Spans

_Line: TypeAlias = tuple[bytes, TraceLine | LostEvents]


def merge(given: Sequence[str], out: Path, *, force: bool) -> int:
    """Merge the traces ``given`` into ``out``; what was left out is said on standard error."""
    paths = traces_of(given, out=out)
    check_out(out, paths, force=force)
    counts = Counts()
    with events_once(), whole_file(out, force=force) as part:
        _write_merged(paths, part, counts)
    say_what_is_pending(paths)
    merged = f"{counted(counts.read, 'event')} of {counted(len(paths), 'trace')}"
    say(f"{out}: {merged}{_left_out(counts)}")
    return ExitCode.DONE


def _write_merged(paths: Sequence[str], part: Part, counts: Counts) -> None:
    sessions = Sessions()
    sources = [source_of(path) for path in paths]
    lines = [usable_lines(source, counts, together=len(sources)) for source in sources]
    streams = [_watched(each, path, sessions) for each, path in zip(lines, paths, strict=True)]
    for line, said in heapq.merge(*streams, key=lambda pair: time_of(pair[1])):
        if isinstance(said, LostEvents):
            counts.lost += said.events
        else:
            counts.read += 1
        part.write(line + b"\n")


def _watched(lines: Iterator[_Line], path: str, sessions: Sessions) -> Iterator[_Line]:
    spans = Spans()
    for line, said in lines:
        if isinstance(said, TraceLine):
            spans.add(said)
        yield line, said
    sessions.add(path, spans)


def _left_out(counts: Counts) -> str:
    lost = f"; {counted(counts.lost, 'event')} lost by the writers" if counts.lost else ""
    return f"; left out {reasons(counts.skipped)}{lost}" if counts.skipped else lost

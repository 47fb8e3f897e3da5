"""A trace that is read while it is written: every look gives whole events, from the first on."""

from __future__ import annotations

import threading
from pathlib import Path

from forwardcache import TraceEvent, TraceWriter
from forwardcache.observe import read_trace

EVENTS = 30_000


def write(path: Path) -> None:
    with TraceWriter(path, interval_s=0.001) as writer:
        for number in range(EVENTS):
            writer.write(TraceEvent(number / 8, None, "base", f"{number}", 8, "op", 0.5, True))


def test_a_reader_of_a_running_trace_sees_its_first_events_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    TraceWriter(path).close()
    thread = threading.Thread(target=write, args=(path,))
    thread.start()
    looks: list[int] = []
    running = True
    while running:
        running = thread.is_alive()
        reader = read_trace(path)
        assert all(event.prompt_hash == str(at) for at, event in enumerate(reader))
        assert set(reader.skipped) <= {"no newline at the end"}
        looks.append(reader.read)
    assert looks == sorted(looks)
    assert looks[-1] == EVENTS

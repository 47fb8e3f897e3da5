"""``TraceEvent`` and ``TraceWriter``: the event, the file, the writer's options.

Not checked here: what stands in a line (``test_trace_lines``), several threads (``test_threads``),
kills, faults and forks (``tests/trace``).
"""

import dataclasses
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.instrumentation.doubles import EVENT, FIELDS, event, raising, read_events
from tests.patience import PATIENCE_S

# The event


def test_an_event_takes_its_fields_by_position_or_name(api: ModuleType) -> None:
    by_position = api.TraceEvent(*EVENT.values())
    assert by_position == api.TraceEvent(**EVENT)
    assert {name: getattr(by_position, name) for name in FIELDS} == EVENT


def test_an_event_is_a_dataclass(api: ModuleType) -> None:
    assert dataclasses.asdict(api.TraceEvent(**EVENT)) == EVENT
    assert tuple(field.name for field in dataclasses.fields(api.TraceEvent)) == FIELDS


def test_the_private_name_is_the_same_class(api: ModuleType) -> None:
    assert api._TraceEvent is api.TraceEvent


# The file


@pytest.mark.parametrize("arguments", [((None,), {}), ((), {"path": None})])
def test_without_a_path_nothing_is_written(
    api: ModuleType, arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    positional, keywords = arguments
    writer = api.TraceWriter(*positional, **keywords)
    writer.write(event())
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_be_a_str_a_path_or_a_keyword(api: ModuleType, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("str", "path", "keyword")]
    writers = [
        api.TraceWriter(str(paths[0])),
        api.TraceWriter(paths[1]),
        api.TraceWriter(path=paths[2]),
    ]
    for writer, path in zip(writers, paths, strict=True):
        writer.write(event())
        assert len(read_events(path, writer)) == 1


def test_parents_are_made_and_the_file_is_there_at_once(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "trace.jsonl"
    _writer = api.TraceWriter(path)
    assert path.read_bytes() == b""


def test_lines_are_appended_to_what_is_there(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    for number in range(3):
        writer = api.TraceWriter(path)
        writer.write(event(top_k=number))
        writer.close()
    assert [line["top_k"] for line in read_events(path)] == [0, 1, 2]


def test_a_line_is_in_the_file_when_flush_returns(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    writer = api.TraceWriter(path)
    for count in range(1, 4):
        writer.write(event())
        assert len(read_events(path, writer)) == count


def test_two_writers_of_one_file_append_whole_lines(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    writers = [api.TraceWriter(path), api.TraceWriter(path)]
    for number in range(20):
        writers[number % 2].write(event(top_k=number))
    assert [line["top_k"] for line in read_events(path, *writers)] == list(range(20))


def test_close_is_idempotent_and_later_writes_are_silent(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    writer = api.TraceWriter(path)
    writer.write(event())
    writer.close()
    writer.close()
    writer.write(event())
    assert len(read_events(path)) == 1


def test_a_path_that_cannot_be_opened_is_an_os_error(api: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        api.TraceWriter(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        api.TraceWriter(tmp_path / "file" / "trace.jsonl")
    with pytest.raises(OSError, match="file"):
        api.BackendInstrumentation(trace_path=tmp_path / "file" / "trace.jsonl")


@pytest.mark.filterwarnings("ignore:.*not in the trace /dev/full:RuntimeWarning")
def test_a_full_disk_does_not_come_out_of_a_call(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation(trace_path="/dev/full")
    assert inst.cached("op", "view", "prompt", 1, lambda: "value") == "value"
    assert inst.cached_batch("op", "view", ["prompt"], 1, raising(AssertionError())) == ["value"]
    inst.close()


# The options


@pytest.mark.parametrize("interval", [0, -1, math.nan, math.inf])
def test_an_interval_is_positive_seconds(rust: ModuleType, tmp_path: Path, interval: float) -> None:
    with pytest.raises(ValueError, match=r"interval_s must be positive seconds, got"):
        rust.TraceWriter(tmp_path / "trace.jsonl", interval_s=interval)


@pytest.mark.parametrize("events", [0, 1, 2**26 + 1])
def test_a_journal_takes_a_sensible_number_of_events(
    rust: ModuleType, tmp_path: Path, events: int
) -> None:
    with pytest.raises(ValueError, match=rf"journal_events must be between .* got {events}"):
        rust.TraceWriter(tmp_path / "trace.jsonl", journal_events=events)


def test_lines_appear_within_the_interval(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    writer = rust.TraceWriter(path, interval_s=0.02)
    for count in range(1, 4):
        writer.write(event())
        give_up = time.monotonic() + PATIENCE_S
        while len(path.read_text().splitlines()) < count:
            assert time.monotonic() < give_up
            time.sleep(0.005)
    writer.close()


def test_a_synced_trace_is_a_trace(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with rust.TraceWriter(path, fsync=True, journal_events=3) as writer:
        for number in range(50):
            writer.write(event(top_k=number))
    assert [line["top_k"] for line in read_events(path)] == list(range(50))


def test_close_tells_how_many_events_are_missing(rust: ModuleType) -> None:
    writer = rust.TraceWriter("/dev/full")
    writer.write(event())
    assert writer.lost == 1
    with pytest.warns(RuntimeWarning, match="1 events are not in the trace /dev/full"):
        assert writer.close() == 1
    assert writer.close() == 1


@pytest.mark.thread_unsafe(reason="writers of one path count their losses together")
def test_losses_stand_in_the_statistics(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation()
    inst.trace = rust.TraceWriter("/dev/full")
    inst.cached("op", "view", "a", 8, lambda: 1)
    assert inst.stats.trace_lost == inst.trace.lost == 1
    assert inst.stats.to_dict()["trace_lost"] == 1
    with pytest.warns(RuntimeWarning, match="not in the trace"):
        inst.close()

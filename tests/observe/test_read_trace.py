"""``read_trace``: what it reads, what it leaves out and counts, in which order.

Checked: each reason a line is skipped for, and that it costs no other line; types; several files,
merged and not; loss lines; open files; errors; memory. Any bytes and any events: test_any_bytes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from forwardcache.observe import TraceEvent, TraceLine, read_trace
from forwardcache.observe.lines import MAX_LINE_BYTES
from forwardcache.observe.parse import parse_line, plain_events
from tests.patience import PATIENCE_S

EIGHT: dict[str, Any] = {
    "ts": 1.5,
    "probe": None,
    "view_id": "base",
    "prompt_hash": "a9993e364706",
    "top_k": 8,
    "op": "next_token_dist",
    "wall_ms": 0.25,
    "hit": True,
}
FURTHER: dict[str, Any] = {
    "run": "00000000000000ab",
    "thread": 3,
    "seq": 7,
    "key": "0123456789abcdef",
    "batch": 2,
    "batch_size": 16,
    "batch_wall_ms": 0.5,
    "bytes": 1024,
    "error": "ValueError",
    "waited": True,
}


def line(**fields: Any) -> bytes:
    return json.dumps({**EIGHT, **fields}).encode("ascii") + b"\n"


def skipped(data: bytes) -> dict[str, int]:
    """Why ``data``, between two good lines, isn't read; the good lines are."""
    reader = read_trace(BytesIO(line(ts=1.0) + data + b"\n" + line(ts=2.0)))
    assert [event.ts for event in reader] == [1.0, 2.0]
    return dict(reader.skipped)


def test_a_line_is_read_with_all_its_fields() -> None:
    reader = read_trace(BytesIO(line(**FURTHER)))
    assert list(reader) == [TraceLine(**EIGHT, **FURTHER)]
    assert (reader.read, reader.lost, reader.skipped) == (1, 0, {})


def test_a_line_of_eight_fields_has_the_defaults_of_the_others() -> None:
    (event,) = read_trace(BytesIO(line()))
    assert event == TraceLine(**EIGHT)
    assert isinstance(event, TraceEvent)
    assert (event.run, event.batch, event.waited) == (None, None, False)
    assert hash(event) == hash(TraceLine(**EIGHT))
    assert repr(event) == repr(TraceLine(**EIGHT))


def test_the_order_of_the_fields_and_blanks_around_them_do_not_matter() -> None:
    fields = dict(reversed(EIGHT.items()))
    text = b" \t" + json.dumps(fields, indent=1).replace("\n", " ").encode() + b" \r\n"
    assert list(read_trace(BytesIO(text))) == [TraceLine(**EIGHT)]


@pytest.mark.parametrize("extra", [{"lost": 3}, {"note": [1, {"a": None}]}, {"note": "a:b"}])
def test_further_fields_of_others_are_ignored(extra: dict[str, Any]) -> None:
    (event,) = read_trace(BytesIO(line(**extra)))
    assert event == TraceLine(**EIGHT)
    assert vars(event) == EIGHT


@pytest.mark.parametrize("name", FURTHER)
@pytest.mark.parametrize("value", [None, ["x"], 1.5, "x", True, 7])
def test_a_further_field_of_another_type_is_ignored(name: str, value: object) -> None:
    (event,) = read_trace(BytesIO(line(**{name: value})))
    same = type(value) is type(FURTHER[name])
    number = name == "batch_wall_ms" and type(value) in {int, float}
    fields = {**EIGHT, name: value} if same or number else EIGHT
    assert event == TraceLine(**fields)


@pytest.mark.parametrize("name", EIGHT)
def test_a_line_without_one_of_the_eight_is_skipped(name: str) -> None:
    fields = {key: value for key, value in EIGHT.items() if key != name}
    assert skipped(json.dumps(fields).encode()) == {f"no {name}": 1}


WRONG: dict[str, list[Any]] = {
    "ts": ["1.5", True, [1.5]],
    "probe": [1, False, ["a"]],
    "view_id": [None, 1],
    "prompt_hash": [None, 12],
    "top_k": ["8", True, 8.0],
    "op": [None, 3],
    "wall_ms": ["0.25", False, {}],
    "hit": [None, 1, "true"],
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name in WRONG for v in WRONG[name]])
def test_a_wrong_type_of_one_of_the_eight_is_skipped(name: str, value: object) -> None:
    assert skipped(line(**{name: value})[:-1]) == {f"wrong type of {name}": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "blank line"),
        (b" \t\r", "blank line"),
        (line()[:40], "not JSON"),
        (line()[:-1] + line()[:-1], "not JSON"),
        (line()[:-1] + b" x", "not JSON"),
        (line(ts=math.nan)[:-1], "not JSON"),
        (line(wall_ms=-math.inf)[:-1], "not JSON"),
        (line(note=math.inf)[:-1], "not JSON"),
        (line(probe="a\tb").replace(b"\\t", b"\t")[:-1], "not JSON"),
        (line(probe="ä").replace(b"\\u00e4", b"\xe4")[:-1], "not UTF-8"),
        (b"\xff\xfe{\x00", "not UTF-8"),
        (b"[1, 2]", "not an object"),
        (b"7", "not an object"),
        (b"null", "not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (line(top_k=7).replace(b"7", b"7" * 5000)[:-1], "a number too long"),
        (line(ts=3.5).replace(b"3.5", b"1e999")[:-1], "ts out of range"),
        (line(wall_ms=3.5).replace(b"3.5", b"-1e999")[:-1], "wall_ms out of range"),
        (line(batch_wall_ms=3.5).replace(b"3.5", b"1e999")[:-1], "batch_wall_ms out of range"),
        (line(ts=10**400)[:-1], "ts out of range"),
        (b'{"probe": "x", ' + line()[1:-1], "a name twice in an object"),
        (b'{"hit": false, ' + line(probe="a:b")[1:-1], "a name twice in an object"),
        (b'{"hit" : false, ' + line(probe="\\u003a")[1:-1], "a name twice in an object"),
        (b'{"hit": false, ' + line(probe="#").replace(b"#", b"\\u003a")[1:-1],
         "a name twice in an object"),
        (line(note=[{"a": 1}]).replace(b'"a": 1', b'"a": 1, "a": 2')[:-1],
         "a name twice in an object"),
        (b'"' + b"x" * MAX_LINE_BYTES + b'"', "line too long"),
        (b'"' + b"x" * 5 * MAX_LINE_BYTES + b'"', "line too long"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_counted_and_costs_no_other(data: bytes, reason: str) -> None:
    assert skipped(data) == {reason: 1}


def test_reading_stops_at_the_last_newline() -> None:
    for end in (line()[:30], line()[:-1], b" "):
        reader = read_trace(BytesIO(line(ts=1.0) + end))
        assert [event.ts for event in reader] == [1.0]
        assert reader.skipped == {"no newline at the end": 1}


def test_a_line_too_long_at_the_end_of_the_file_is_counted_once() -> None:
    for length in (2000, 2_000_000):
        reader = read_trace(BytesIO(line() + b"x" * length), max_line_bytes=1000)
        assert len(list(reader)) == 1
        assert reader.skipped == {"line too long": 1}


def test_a_line_of_just_the_longest_length_is_read() -> None:
    data = line()
    for longest, read in ((len(data) - 1, 1), (len(data) - 2, 0)):
        assert len(list(read_trace(BytesIO(data), max_line_bytes=longest))) == read


def test_numbers_that_json_does_not_have_come_back_as_nan() -> None:
    (event,) = read_trace(BytesIO(line(ts=None, wall_ms=None)))
    assert math.isnan(event.ts)
    assert math.isnan(event.wall_ms)


def test_integers_stand_for_times_and_come_back_as_floats() -> None:
    (event,) = read_trace(BytesIO(line(ts=2, wall_ms=-1, batch_wall_ms=3, top_k=10**30)))
    times = (event.ts, event.wall_ms, event.batch_wall_ms)
    assert times == (2.0, -1.0, 3.0)
    assert {type(time) for time in times} == {float}
    assert event.top_k == 10**30


def test_colons_and_surrogates_in_texts_are_read() -> None:
    probe = 'a:"b"\\: \ud800 é'
    (event,) = read_trace(BytesIO(line(probe=probe)))
    assert event.probe == probe


def test_lines_are_whole_wherever_the_blocks_of_the_file_end() -> None:
    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(7)

    lines = b"".join(line(ts=float(number)) for number in range(50))
    assert [event.ts for event in read_trace(Slow(lines))] == list(range(50))


def test_a_loss_line_is_counted_and_not_given_out() -> None:
    loss = line(op="trace_lost", lost=5)
    reader = read_trace(BytesIO(line() + loss + loss + line()))
    assert len(list(reader)) == 2
    assert (reader.read, reader.lost, reader.skipped) == (2, 10, {})


@pytest.mark.parametrize("fields", [{}, {"lost": 0}, {"lost": -5}, {"lost": "5"}, {"lost": None}])
def test_an_op_of_that_name_that_lost_nothing_is_an_event(fields: dict[str, Any]) -> None:
    reader = read_trace(BytesIO(line(op="trace_lost", **fields)))
    assert [event.op for event in reader] == ["trace_lost"]
    assert reader.lost == 0


def files(folder: Path, *traces: Iterable[bytes]) -> list[Path]:
    paths = [folder / f"{number}.jsonl" for number in range(len(traces))]
    for path, lines in zip(paths, traces, strict=True):
        path.write_bytes(b"".join(lines))
    return paths


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = files(tmp_path, [line(ts=5.0), b"x\n"], [], [line(ts=1.0), b"x"])
    reader = read_trace(paths)
    assert [event.ts for event in reader] == [5.0, 1.0]
    assert reader.skipped == {"not JSON": 1, "no newline at the end": 1}


def test_several_files_are_merged_by_time(tmp_path: Path) -> None:
    times = [[1.0, 4.0, 4.0, 9.0], [2.0, 3.0, 10.0], [], [0.5]]
    paths = files(tmp_path, *([line(ts=ts) for ts in each] for each in times))
    reader = read_trace(iter(map(str, paths)), merge=True)
    assert [event.ts for event in reader] == sorted(chain.from_iterable(times))
    assert reader.read == 8


def test_merging_keeps_each_file_s_order_also_where_the_clock_stepped_back(tmp_path: Path) -> None:
    stepped = [line(ts=ts, seq=seq) for seq, ts in enumerate([10.0, 11.0, 3.0, 4.0, None, 20.0])]
    other = [line(ts=ts, run="b") for ts in (10.5, 11.5, 12.5)]
    events = list(read_trace(files(tmp_path, stepped, other), merge=True))
    assert [event.seq for event in events if event.run is None] == list(range(6))
    order = [event.seq if event.run is None else event.ts for event in events]
    assert order == [0, 10.5, 1, 2, 3, 4, 11.5, 12.5, 5]


def test_events_of_one_time_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = files(tmp_path, *([line(probe=name), line(probe=name)] for name in "abc"))
    assert "".join(event.probe or "" for event in read_trace(paths, merge=True)) == "aabbcc"


def test_the_counts_are_those_of_what_was_read_so_far(tmp_path: Path) -> None:
    (path,) = files(tmp_path, [line(), b"x\n", line(op="trace_lost", lost=2), line()])
    with read_trace(path) as reader:
        next(reader)
        assert (reader.read, reader.lost, dict(reader.skipped)) == (1, 0, {})
        next(reader)
        assert (reader.read, reader.lost, dict(reader.skipped)) == (2, 2, {"not JSON": 1})
        assert next(reader, None) is None


def test_a_loop_and_next_share_their_position() -> None:
    reader = read_trace(BytesIO(b"".join(line(ts=float(number)) for number in range(4))))
    assert next(reader).ts == 0.0
    for event in reader:
        assert event.ts == 1.0
        break
    assert [event.ts for event in reader] == [2.0, 3.0]


def test_closing_early_closes_the_file_and_ends_the_events(tmp_path: Path) -> None:
    (path,) = files(tmp_path, [line()] * 5)
    reader = read_trace(path)
    next(reader)
    assert str(path) in open_files()
    reader.close()
    assert str(path) not in open_files()
    assert list(reader) == []


def open_files() -> set[str]:
    return {str(entry.resolve()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def test_a_file_that_the_caller_opened_is_read_from_its_position_and_stays_open(
    tmp_path: Path,
) -> None:
    (path,) = files(tmp_path, [line(ts=1.0), line(ts=2.0)])
    with path.open("rb") as file:
        file.readline()
        assert [event.ts for event in read_trace(file)] == [2.0]
        assert not file.closed


def test_a_missing_file_is_refused_by_the_call(tmp_path: Path) -> None:
    (there,) = files(tmp_path, [line()])
    with pytest.raises(FileNotFoundError):
        read_trace([there, tmp_path / "missing.jsonl"])


def test_a_folder_is_an_error_when_its_turn_comes(tmp_path: Path) -> None:
    reader = read_trace(tmp_path)
    with pytest.raises(IsADirectoryError):
        next(reader)


def test_no_paths_are_no_events() -> None:
    assert list(read_trace([])) == []
    assert list(read_trace([], merge=True)) == []


@pytest.mark.parametrize(("merge", "thousands"), [(False, 100), (True, 30)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, merge: bool, thousands: int) -> None:
    lines = [line(ts=float(number), **FURTHER, probe=f"p{number}") for number in range(1000)]
    paths = files(tmp_path, lines * (thousands // 2), lines * (thousands // 2))
    tracemalloc.start()
    try:
        reader = read_trace(paths, merge=merge)
        count = sum(1 for _ in reader)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == thousands * 1000
    assert sum(path.stat().st_size for path in paths) > thousands * 300_000
    assert peak < 6e6


def test_a_line_of_any_length_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    with path.open("wb") as file:
        file.truncate(200_000_000)
        file.seek(0, 2)
        file.write(b"\n" + line())
    tracemalloc.start()
    try:
        reader = read_trace(path)
        assert len(list(reader)) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.skipped == {"line too long": 1}
    assert peak < 6e6


def test_reading_imports_no_model_and_no_numbers() -> None:
    script = (
        "import sys, forwardcache.observe\n"
        "assert not {'torch', 'numpy', 'transformers', 'typer', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)


def test_reading_needs_nothing_of_the_package_but_events_figures_and_the_core() -> None:
    folder = Path(sys.modules["forwardcache.observe"].__file__ or "").parent
    imported = {
        words[1]
        for path in folder.glob("*.py")
        for words in map(str.split, path.read_text("utf-8").splitlines())
        if words[:1] in (["from"], ["import"]) and words[1].startswith("forwardcache")
    }
    assert {name for name in imported if not name.startswith("forwardcache.observe")} == {
        "forwardcache._core",
        "forwardcache._event",
        "forwardcache._figures",
        # What to install for a table or a plot.
        "forwardcache.extras",
    }


def test_lines_as_the_writer_writes_them_are_read_natively() -> None:
    text = {**EIGHT, **FURTHER, "probe": "p"}
    plain, escaped = (json.dumps(each).encode() for each in (text, {**text, "probe": 'a"b'}))
    event, odd = plain_events([plain, escaped])
    assert event == parse_line(plain)
    assert odd is None
    assert list(read_trace(BytesIO(plain + b"\n" + escaped + b"\n"))) == [
        event,
        parse_line(escaped),
    ]

"""The export for Perfetto: valid, one track a thread, batches around their prompts, no overlaps.

Perfetto itself reads an export in ``tests/cli/test_export_perfetto.py``; the schema and
``misplaced`` state what it needs of any.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from forwardcache import BackendInstrumentation
from forwardcache.observe import TraceLine, read_trace
from forwardcache.observe.chrome import chrome_trace

SCHEMA = json.loads((Path(__file__).parent / "trace_event_schema.json").read_text("utf-8"))
Slice = dict[str, Any]


def exported(events: Iterable[TraceLine]) -> tuple[list[Slice], Counter[str]]:
    """The slices of an export that follows the schema, and what was left out."""
    left_out: Counter[str] = Counter()
    document = json.loads("".join(chrome_trace(events, left_out)))
    jsonschema.validate(document, SCHEMA)
    slices = [entry for entry in document["traceEvents"] if entry["ph"] == "X"]
    assert not list(misplaced(slices))
    return slices, left_out


def ns(value: float) -> int:
    """As Perfetto reads microseconds: what is behind the nanosecond is cut off."""
    assert int(value * 1000) == round(value * 1000)
    return int(value * 1000)


def interval(one: Slice) -> tuple[int, int]:
    start = ns(one["ts"])
    return start, start + ns(one["dur"])


def by_track(slices: Iterable[Slice]) -> dict[tuple[int, int], list[Slice]]:
    tracks: dict[tuple[int, int], list[Slice]] = {}
    for one in slices:
        tracks.setdefault((one["pid"], one["tid"]), []).append(one)
    return tracks


def misplaced(slices: Iterable[Slice]) -> Iterator[Slice]:
    """Slices that overlap another of their track without being inside it or around it."""
    for track in by_track(slices).values():
        around: list[int] = []
        for one in sorted(track, key=lambda one: (interval(one)[0], -interval(one)[1])):
            start, end = interval(one)
            while around and around[-1] <= start:
                around.pop()
            if around and end > around[-1]:
                yield one
            around.append(end)


def line(ts: float, wall_ms: float = 1.0, **fields: Any) -> TraceLine:
    known: dict[str, Any] = {"probe": None, "view_id": "base", "prompt_hash": "h", "top_k": 8}
    known |= {"op": "dist", "hit": False, "run": "r", "thread": 0}
    return TraceLine(ts=ts, wall_ms=wall_ms, **known | fields)


def named(slices: Iterable[Slice], name: str) -> list[Slice]:
    return [one for one in slices if one["name"] == name]


def test_a_call_ends_at_its_time_and_took_its_wall() -> None:
    (first, second), left_out = exported([line(100.0, 250.0, probe="p"), line(101.0, 500.0)])
    assert (first["dur"], second["dur"]) == (250_000.0, 500_000.0)
    assert interval(second)[1] - interval(first)[1] == 1_000_000_000
    assert first["args"]["probe"] == "p"
    assert (first["name"], first["cat"]) == ("computed base dist", "computed")
    assert not left_out


def test_a_time_has_no_more_decimals_than_perfetto_reads() -> None:
    wall_ms = 0.00030491974893206986
    text = "".join(chrome_trace([line(100.0, wall_ms)], Counter()))
    assert not re.search(r"\.\d{20}", text)
    *_, entry = json.loads(text)["traceEvents"]
    assert abs(entry["args"]["wall_ms"] - wall_ms) < 1e-18


def test_the_misplaced_are_found() -> None:
    one = {"pid": 1, "tid": 1, "ts": 0.0, "dur": 10.0}
    assert list(misplaced([one, {**one, "ts": 5.0}]))
    assert not list(misplaced([one, {**one, "ts": 5.0, "dur": 5.0}, {**one, "ts": 10.0}]))
    assert not list(misplaced([one, {**one, "ts": 5.0, "tid": 2}]))


def test_prompts_are_inside_their_batch_and_share_its_time() -> None:
    looked_up = {"batch": 3, "batch_size": 3, "batch_wall_ms": 3.0, "hit": True}
    computed = {"batch": 3, "batch_size": 2, "batch_wall_ms": 40.0}
    events = [line(10.0, 1.0, **looked_up), *[line(10.05, 20.0, **computed)] * 2, line(10.2, 100.0)]
    (batch, hit, one, other, single), _ = exported(events)
    assert batch["name"] == "batch of 3 base dist"
    assert batch["args"] == {"batch": 3, "probe": None, "prompts": 3, "hit": 1, "computed": 2}
    for inside in (hit, one, other):
        assert interval(batch)[0] <= interval(inside)[0]
        assert interval(inside)[1] <= interval(batch)[1]
    assert (one["dur"], other["dur"]) == (20_000.0, 20_000.0)
    assert interval(one)[1] == interval(other)[0]
    assert interval(other)[1] == interval(batch)[1] <= interval(single)[0]


def test_a_call_is_around_those_that_its_computation_made() -> None:
    inner = [line(10.2, 100.0), line(10.4, 150.0, view_id="ft")]
    (first, second, outer), _ = exported([*inner, line(10.5, 450.0, op="roll")])
    assert interval(outer)[0] < interval(first)[0]
    assert interval(second)[1] <= interval(outer)[1]
    assert outer["dur"] == 450_000.0


def test_a_call_begins_before_the_one_inside_it_also_where_the_clock_says_otherwise() -> None:
    (inner, outer), _ = exported([line(10.1, 100.0), line(10.2, 200.0, view_id="ft")])
    assert interval(outer)[0] < interval(inner)[0]
    (inner, outer), _ = exported([line(10.1, 100.0), line(10.2, 199.9, view_id="ft")])
    assert interval(outer)[0] < interval(inner)[0]


def test_a_batch_is_around_calls_that_its_computation_made() -> None:
    shared = {"batch": 1, "batch_size": 2, "batch_wall_ms": 100.0}
    events = [line(10.03, 20.0, view_id="ft"), *[line(10.1, 50.0, **shared)] * 2]
    slices, _ = exported(events)
    (inner,), (batch,) = named(slices, "computed ft dist"), named(slices, "batch of 2 base dist")
    assert interval(batch)[0] < interval(inner)[0] < interval(inner)[1] < interval(batch)[1]
    assert all(one["args"]["wall_ms"] == 50.0 for one in named(slices, "computed base dist"))


def test_each_thread_of_each_session_has_a_track_with_a_name() -> None:
    threads = [("a", 0), ("a", 1), ("b", 0), (None, None)]
    events = [line(10.0, 500.0, run=run, thread=thread) for run, thread in threads]
    left_out: Counter[str] = Counter()
    entries = json.loads("".join(chrome_trace(events, left_out)))["traceEvents"]
    assert len(by_track(entry for entry in entries if entry["ph"] == "X")) == 4
    names = [entry["args"]["name"] for entry in entries if entry["name"] == "thread_name"]
    assert names == ["thread 0", "thread 1", "thread 0", "lines that name no thread"]
    runs = {entry["args"]["name"] for entry in entries if entry["name"] == "process_name"}
    assert runs == {"run a", "run b", "lines that name no run"}


def test_a_clock_that_was_set_back_shortens_no_call() -> None:
    events = [line(5000.0), line(1400.0, 20.0), line(1401.0, 30.0), line(1400.5, 10.0, thread=1)]
    slices, _ = exported(events)
    assert [one["dur"] for one in slices] == [1_000.0, 20_000.0, 30_000.0, 10_000.0]
    assert interval(slices[2])[1] - interval(slices[1])[1] == 1_000_000_000
    # All threads of the run share its clock.
    assert interval(slices[3])[1] - interval(slices[1])[1] == 500_000_000


def test_events_without_a_usable_time_are_counted() -> None:
    day = 86_400.0
    events = [line(10 * day), line(float("nan")), line(1e300), line(8 * day), line(-1.0)]
    slices, left_out = exported(events)
    assert len(slices) == 1
    assert left_out == {"no time": 3, "more than a day before the first": 1}
    (kept,), _ = exported([line(10.0, float("nan"))])
    assert (kept["dur"], kept["args"]["wall_ms"]) == (0.0, None)


def test_names_stand_in_the_file_as_they_are() -> None:
    names = ["über", "\U0001f914", '\u4e2d\u6587 "q" \\u00fc', "a\tb"]
    events = [line(10.0 + at, view_id=name, op="op") for at, name in enumerate(names)]
    text = "".join(chrome_trace(events, Counter()))
    slices = [each for each in json.loads(text.encode("utf-8"))["traceEvents"] if each["ph"] == "X"]
    assert [each["args"]["view_id"] for each in slices] == names
    assert all(f'"view_id": "{name}"' in text for name in names[:2])


def test_half_a_surrogate_pair_is_shown_replaced() -> None:
    text = "".join(chrome_trace([line(10.0, view_id="a\ud83eb\udc80")], Counter()))
    [one] = [each for each in json.loads(text.encode("utf-8"))["traceEvents"] if each["ph"] == "X"]
    assert one["args"]["view_id"] == "a\ufffdb\ufffd"


def test_no_events_are_a_document_too() -> None:
    assert exported([]) == ([], Counter())


def scored(inst: BackendInstrumentation, name: str) -> None:
    """Calls of one thread: single, nested, batched, repeated, failing, around others."""

    def nested() -> Any:
        return inst.cached("inner", "base", f"{name} inner", 8, lambda: time.sleep(0.001))

    def around(indices: list[int]) -> list[int]:
        inst.cached("inner", "ft", f"{name} {len(indices)}", 8, lambda: time.sleep(0.001))
        return indices

    for number in range(20):
        inst.cached("outer", "base", f"{name} {number % 7}", 8, nested)
        prompts = [f"{name} {each % 9}" for each in range(number)]
        inst.cached_batch("batch", "ft", prompts, 8, around)
        # What the threads share, so that they wait for each other.
        inst.cached_batch("batch", "base", [f"{each}" for each in range(number)], 8, around)


def test_a_trace_of_threads_is_exported_whole_and_without_overlaps(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with BackendInstrumentation(trace_path=path, cache_maxsize=20) as inst:
        threads = [threading.Thread(target=scored, args=(inst, str(n))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = list(read_trace(path))
    slices, left_out = exported(events)
    prompts = [one for one in slices if one["cat"] != "batch"]
    assert (len(prompts), left_out) == (len(events), Counter())
    assert len(by_track(slices)) == len({event.thread for event in events})
    seconds = sum(one["dur"] for one in named(slices, "computed base outer")) / 1e6
    walls = [event.wall_ms for event in events if (event.op, event.hit) == ("outer", False)]
    assert abs(seconds - sum(walls) / 1000) < 0.01 * seconds


times = st.floats(0, 50, width=32) | st.sampled_from([10.0, 10.000001, float("nan")])
lines = st.builds(
    line,
    times,
    st.floats(-1, 20_000) | st.just(0.0),
    hit=st.booleans(),
    waited=st.booleans(),
    run=st.sampled_from([None, "a"]),
    thread=st.sampled_from([None, -1, 0]),
    batch=st.sampled_from([None, 0, 1]),
    batch_size=st.none() | st.integers(-1, 5),
    batch_wall_ms=st.none() | st.floats(0, 9_000),
    view_id=st.text(max_size=2),
)


@given(st.lists(lines, max_size=25))
def test_whatever_the_lines_say_no_slices_overlap(events: list[TraceLine]) -> None:
    slices, left_out = exported(events)
    prompts = [one for one in slices if one["cat"] != "batch"]
    assert len(prompts) + left_out.total() == len(events)

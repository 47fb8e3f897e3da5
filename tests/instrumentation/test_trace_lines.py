"""A line of the trace: strict JSON, its eight fields, the further ones, digests and hashes."""

import dataclasses
import hashlib
import json
import math
import re
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given

from forwardcache import instrumentation
from forwardcache._event import TraceLine
from tests.instrumentation.doubles import EVENT, FIELDS, RecordingTrace, event, raising, read_events
from tests.instrumentation.texts import ANY_TEXT, COLLIDING, NASTY


def written(api: ModuleType, path: Path, **changes: object) -> dict[str, Any]:
    writer = api.TraceWriter(path)
    writer.write(event(**changes))
    writer.close()
    [line] = read_events(path)
    return line


# The line


def test_a_line_begins_with_the_eight_fields_in_order(api: ModuleType, tmp_path: Path) -> None:
    line = written(api, tmp_path / "trace.jsonl")
    assert tuple(line)[:8] == FIELDS
    assert {name: line[name] for name in FIELDS} == EVENT


def test_the_fields_have_their_types(api: ModuleType, tmp_path: Path) -> None:
    line = written(api, tmp_path / "trace.jsonl")
    assert [type(line[name]) for name in FIELDS] == [float, str, str, str, int, str, float, bool]
    assert written(api, tmp_path / "other.jsonl", probe=None)["probe"] is None


def test_any_object_with_the_fields_is_an_event(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    writer = api.TraceWriter(path)
    writer.write(event())
    writer.write(api.TraceEvent(**EVENT))
    first, second = read_events(path, writer)
    assert {name: first[name] for name in FIELDS} == {name: second[name] for name in FIELDS}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["ts", "wall_ms"])
def test_what_json_has_no_number_for_is_null(
    api: ModuleType, tmp_path: Path, field: str, value: float
) -> None:
    line = written(api, tmp_path / "trace.jsonl", **{field: value})
    assert line[field] is None


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e16, 1e22, 0.1, 1.7976931348623157e308, 123456.75])
def test_floats_are_read_back_exactly_and_as_floats(
    api: ModuleType, tmp_path: Path, value: float
) -> None:
    read = written(api, tmp_path / "trace.jsonl", wall_ms=value)["wall_ms"]
    assert isinstance(read, float)
    assert read == value


@pytest.mark.parametrize(
    "number", [True, 1.0, 256.0, Fraction(256), Decimal(256), 2**40, 2**53 + 1, 2**70, -1], ids=repr
)
def test_top_k_is_written_as_the_integer_it_equals(
    api: ModuleType, tmp_path: Path, number: Any
) -> None:
    read = written(api, tmp_path / "trace.jsonl", top_k=number)["top_k"]
    assert type(read) is int
    assert read == number


@pytest.mark.parametrize("text", NASTY, ids=ascii)
@pytest.mark.parametrize("field", ["probe", "view_id", "prompt_hash", "op"])
def test_nasty_text_is_escaped_as_json_dumps_does(
    api: ModuleType, tmp_path: Path, field: str, text: str
) -> None:
    path = tmp_path / "trace.jsonl"
    assert written(api, path, **{field: text})[field] == text
    assert f'"{field}": {json.dumps(text)}' in path.read_text(encoding="ascii")


@given(ANY_TEXT)
def test_any_text_is_escaped_as_json_dumps_does(text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        writer = instrumentation.TraceWriter(path)
        writer.write(instrumentation.TraceEvent(0.5, text, text, "label", 8, text, 0.5, True))
        writer.close()
        line = path.read_text(encoding="ascii")
    for field in ("probe", "view_id", "op"):
        assert f'"{field}": {json.dumps(text)},' in line


# The lines of an instrumentation


def test_a_call_leaves_one_line_with_what_it_was_asked(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with api.BackendInstrumentation(trace_path=path) as inst:
        inst.set_current_probe("probe-1")
        inst.cached("next_token_dist", "ft", "abc", 256, lambda: 1)
    [line] = read_events(path)
    assert tuple(line)[:8] == FIELDS
    asked = {**EVENT, "view_id": "ft", "ts": line["ts"], "wall_ms": line["wall_ms"]}
    assert {name: line[name] for name in FIELDS} == asked


def test_times_are_seconds_of_the_clock_and_milliseconds_of_work(
    api: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    before = time.time()
    with api.BackendInstrumentation(trace_path=path) as inst:
        inst.cached("op", "view", "prompt", 1, lambda: time.sleep(0.02))
        inst.cached("op", "view", "prompt", 1, lambda: None)
    after = time.time()
    miss, hit = read_events(path)
    assert before - 0.01 <= miss["ts"] <= hit["ts"] <= after + 0.01
    assert miss["wall_ms"] >= 20
    assert hit["wall_ms"] >= 0
    assert miss["wall_ms"] + hit["wall_ms"] <= (after - before) * 1e3


@pytest.mark.parametrize("top_k", [True, 1.0, Fraction(1), Decimal(1)], ids=repr)
def test_calls_with_equal_top_k_leave_equal_lines(
    api: ModuleType, tmp_path: Path, top_k: Any
) -> None:
    path = tmp_path / "trace.jsonl"
    with api.BackendInstrumentation(trace_path=path) as inst:
        inst.cached("op", "view", "prompt", 1, lambda: "value")
        inst.cached("op", "view", "prompt", top_k, raising(AssertionError()))
    miss, hit = read_events(path)
    assert (miss["top_k"], hit["top_k"]) == (1, 1)
    assert type(hit["top_k"]) is int
    assert miss.get("key") == hit.get("key")


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_the_lines_of_nasty_calls_are_strict_json(
    api: ModuleType, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "trace.jsonl"
    with api.BackendInstrumentation(trace_path=path) as inst, inst.probe(text):
        inst.cached(text, text, text, 1, lambda: None)
    [line] = read_events(path)
    assert (line["probe"], line["view_id"], line["op"]) == (text, text, text)
    assert line["prompt_hash"] == api.prompt_hash(text)


def keys_of(rust: ModuleType, path: Path, *calls: dict[str, Any]) -> list[str]:
    with rust.BackendInstrumentation(trace_path=path) as inst:
        for call in calls:
            usual = {"op": "op", "view_id": "view", "prompt": "prompt", "top_k": 8}
            inst.cached(**{**usual, **call}, compute=lambda: None)
    return [line["key"] for line in read_events(path)]


def test_a_line_has_the_digest_of_its_key(rust: ModuleType, tmp_path: Path) -> None:
    [key] = keys_of(rust, tmp_path / "trace.jsonl", {})
    assert re.fullmatch("[0-9a-f]{16}", key)


def test_equal_keys_have_one_digest(rust: ModuleType, tmp_path: Path) -> None:
    equal: list[dict[str, Any]] = [{}, {}, {"top_k": 8.0}, {"scope": b""}]
    assert len(set(keys_of(rust, tmp_path / "trace.jsonl", *equal))) == 1
    assert len(set(keys_of(rust, tmp_path / "again.jsonl", {}, {"top_k": 8.0}))) == 1


def test_a_batch_gives_the_digests_of_single_calls(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with rust.BackendInstrumentation(trace_path=path) as inst:
        inst.cached_batch("op", "view", ["a", "b", "a"], 8, lambda indices: indices)
        inst.cached("op", "view", "a", 8, lambda: None)
        inst.cached("op", "view", "b", 8, lambda: None)
        inst.cached_batch("op", "view", ["b", "a"], 8, lambda indices: indices)
    keys = [line["key"] for line in read_events(path)]
    a, b = keys[:2]
    assert a != b
    assert keys == [a, b, a, a, b, b, a]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[({"prompt": one}, {"prompt": other}) for one, other in COLLIDING],
        ({"prompt": ("a\0b", "c")}, {"prompt": ("a", "b\0c")}),
        ({"prompt": ("a",)}, {"prompt": "a"}),
        ({"op": "a"}, {"op": "b"}),
        ({"view_id": "a"}, {"view_id": "b"}),
        ({"op": "a", "view_id": "b"}, {"op": "b", "view_id": "a"}),
        ({"op": "ab", "view_id": "c"}, {"op": "a", "view_id": "bc"}),
        ({"top_k": 8}, {"top_k": 64}),
        ({"scope": b"a"}, {"scope": b"b"}),
        ({"scope": b"a"}, {}),
    ],
    ids=repr,
)
def test_different_keys_have_different_digests(
    rust: ModuleType, tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = keys_of(rust, tmp_path / "trace.jsonl", one, other)
    assert first != second


def test_a_look_alike_is_given_no_more_than_the_eight_fields(api: ModuleType) -> None:
    inst = api.BackendInstrumentation()
    inst.trace = RecordingTrace()
    inst.cached("op", "view", "prompt", 8.0, lambda: None)
    [given] = inst.trace.events
    assert isinstance(given, api.TraceEvent)
    assert given.top_k == 8
    assert tuple(dataclasses.asdict(given)) == FIELDS


# The further fields


def lines_of(path: Path, inst: Any) -> list[dict[str, Any]]:
    inst.close()
    return read_events(path)


def test_a_line_names_its_run_thread_and_number(rust: ModuleType, tmp_path: Path) -> None:
    runs = []
    for name in ("one", "other"):
        inst = rust.BackendInstrumentation(trace_path=tmp_path / name)
        for _ in range(3):
            inst.cached("op", "view", "a", 8, lambda: 1)
        lines = lines_of(tmp_path / name, inst)
        assert [line["seq"] for line in lines] == [0, 1, 2]
        assert len({(line["run"], line["thread"]) for line in lines}) == 1
        runs.append(lines[0]["run"])
    assert all(re.fullmatch("[0-9a-f]{16}", run) for run in runs)
    assert runs[0] != runs[1]


def test_events_of_a_batch_share_its_number_size_and_wall(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    inst = rust.BackendInstrumentation(trace_path=path)
    inst.cached("op", "view", "a", 8, lambda: 1)
    for _ in range(2):
        inst.cached_batch("op", "view", ["a", "b", "c", "b"], 8, lambda indices: indices)
    single, *batched = lines_of(path, inst)
    assert "batch" not in single
    hit, *misses, repeat = batched[:4]
    assert [line["hit"] for line in (hit, *misses, repeat)] == [True, False, False, True]
    assert {line["batch"] for line in batched[:4]} == {0}
    assert {line["batch"] for line in batched[4:]} == {1}
    assert [line["batch_size"] for line in (hit, *misses)] == [4, 2, 2]
    assert misses[0]["batch_wall_ms"] == misses[1]["batch_wall_ms"]
    for line in (hit, *misses):
        assert line["wall_ms"] == pytest.approx(line["batch_wall_ms"] / line["batch_size"])


def test_a_failed_computation_leaves_an_event(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    inst = rust.BackendInstrumentation(trace_path=path)
    with pytest.raises(ZeroDivisionError):
        inst.cached("op", "view", "a", 8, raising(ZeroDivisionError()))
    with pytest.raises(KeyError):
        inst.cached_batch("op", "view", ["b", "c"], 8, raising(KeyError()))
    lines = lines_of(path, inst)
    assert [line["error"] for line in lines] == ["ZeroDivisionError", "KeyError", "KeyError"]
    assert not any(line["hit"] for line in lines)


def test_a_stored_value_tells_its_bytes_where_they_are_counted(
    rust: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    inst = rust.BackendInstrumentation(cache_max_bytes=1 << 20, trace_path=path)
    inst.cached("op", "view", "a", 8, lambda: b"x" * 1000)
    inst.cached_batch("op", "view", ["b"], 8, lambda _: [b"x" * 3000])
    one, other = lines_of(path, inst)
    assert one["bytes"] + other["bytes"] == inst.cache.nbytes
    assert one["bytes"] > 1000
    assert other["bytes"] > 3000


def test_a_line_that_was_read_is_written_with_its_further_fields(
    rust: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    fields: Any = EVENT
    line = TraceLine(
        **fields,
        key="00000000000000ff",
        batch=3,
        batch_size=4,
        batch_wall_ms=2.5,
        bytes=70,
        error="ValueError",
        waited=True,
    )
    with rust.TraceWriter(path) as writer:
        writer.write(line)
    [again] = read_events(path)
    for name in ("key", "batch", "batch_size", "batch_wall_ms", "bytes", "error", "waited"):
        assert again[name] == getattr(line, name)
    assert again["run"] is not None


# The salt


def test_a_salt_changes_the_hash_prefixes_and_nothing_else(
    rust: ModuleType, tmp_path: Path
) -> None:
    hashes = {}
    for salt in (None, b"secret", b"other"):
        path = tmp_path / f"{salt!r}.jsonl"
        inst = rust.BackendInstrumentation(trace_path=path, trace_salt=salt)
        for _ in range(2):
            inst.cached("op", "view", "abc", 8, lambda: 1)
        miss, hit = lines_of(path, inst)
        assert miss["prompt_hash"] == hit["prompt_hash"]
        hashes[salt] = hit["prompt_hash"]
    assert hashes[None] == "a9993e364706"
    assert hashes[b"secret"] == hashlib.sha1(b"secretabc").hexdigest()[:12]
    assert len(set(hashes.values())) == 3


def test_values_from_before_a_salt_are_hashed_with_it(rust: ModuleType, tmp_path: Path) -> None:
    inst = rust.BackendInstrumentation(trace_path=tmp_path / "unsalted.jsonl")
    inst.cached("op", "view", "abc", 8, lambda: 1)
    inst.trace = rust.TraceWriter(tmp_path / "salted.jsonl", salt=b"secret")
    inst.cached("op", "view", "abc", 8, raising(AssertionError()))
    [line] = lines_of(tmp_path / "salted.jsonl", inst)
    assert line["prompt_hash"] == hashlib.sha1(b"secretabc").hexdigest()[:12]

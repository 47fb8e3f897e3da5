"""Any file and any events: the reader never fails, never invents, and gives back what was written.

"Never invents" is checked against a slow reading of the same bytes by the definitions alone.
"""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forwardcache import TraceEvent, TraceWriter
from forwardcache.observe import TraceLine, read_trace
from tests.observe.plain import plainly_read

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates included
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
EVENTS = st.builds(
    TraceEvent,
    ts=NUMBERS,
    probe=st.none() | TEXT,
    view_id=TEXT,
    prompt_hash=TEXT,
    top_k=st.none() | st.integers(),
    op=TEXT,
    wall_ms=NUMBERS,
    hit=st.booleans(),
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["a:b"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
EIGHT: dict[str, st.SearchStrategy[Any]] = {
    "ts": NUMBERS,
    "probe": st.none() | TEXT,
    "view_id": TEXT,
    "prompt_hash": TEXT,
    "top_k": st.none() | st.integers(),
    "op": st.sampled_from(["next_token_dist", "trace_lost"]) | TEXT,
    "wall_ms": NUMBERS,
    "hit": st.booleans(),
}
FURTHER = ["run", "thread", "seq", "key", "batch", "batch_size", "batch_wall_ms", "bytes", "error",
           "waited", "lost", "note"]  # fmt: skip
GOOD = st.fixed_dictionaries(EIGHT, optional=dict.fromkeys(FURTHER, VALUES))
NEARLY_GOOD = st.fixed_dictionaries(
    {}, optional={name: values | VALUES for name, values in EIGHT.items()}
)


@st.composite
def doubled(draw: st.DrawFn) -> str:
    """An object some of whose names may stand there twice."""
    pairs = list(draw(GOOD).items())
    again = draw(st.lists(st.sampled_from(pairs), max_size=2))
    texts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs + again]
    return "{" + ", ".join(draw(st.permutations(texts))) + "}"


JSON_LINES = (GOOD | NEARLY_GOOD | VALUES).map(json.dumps) | doubled()
LINES = JSON_LINES.map(str.encode) | st.binary(max_size=60)


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """Lines, some of them cut, joined or with bytes changed."""
    data = bytearray(b"\n".join(draw(st.lists(LINES, max_size=6))))
    data += draw(st.sampled_from([b"", b"\n"]))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            at = draw(st.integers(0, len(data) - 1))
            data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=2))
    return bytes(data)


def same(one: TraceLine, other: TraceLine) -> bool:
    """Equal, with NaN equal to NaN, and of the same types."""
    return list(map(told_apart, vars_of(one))) == list(map(told_apart, vars_of(other)))


def told_apart(value: Any) -> tuple[type, Any]:
    return type(value), "NaN" if isinstance(value, float) and math.isnan(value) else value


def vars_of(line: TraceLine) -> list[Any]:
    return [getattr(line, name) for name in TraceLine.__dataclass_fields__]


def hold_to_plain_reading(data: bytes) -> None:
    """The events that are in a trace by the definitions alone, and no others."""
    reader = read_trace(BytesIO(data))
    events = list(reader)
    expected, lost, unusable = plainly_read(data)
    assert len(events) == len(expected)
    assert all(map(same, events, expected))
    assert reader.lost == lost
    assert reader.read == len(events)
    assert sum(reader.skipped.values()) == unusable


@settings(max_examples=400, deadline=None)
@given(torn() | st.binary())
@example(b'{"a":' * 5000 + b"\n")
def test_any_bytes_give_the_events_in_them_and_no_exception(data: bytes) -> None:
    hold_to_plain_reading(data)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(EVENTS, max_size=8))
def test_events_that_were_written_are_read_back_equal(
    tmp_path: Path, events: list[TraceEvent]
) -> None:
    path = tmp_path / "trace.jsonl"
    path.unlink(missing_ok=True)
    with TraceWriter(path) as writer:
        for event in events:
            writer.write(event)
    reader = read_trace(path)
    assert [eight_of(line) for line in reader] == [eight_of(event) for event in events]
    assert not reader.skipped


def eight_of(event: TraceEvent) -> list[Any]:
    return [getattr(event, name) for name in TraceEvent.__dataclass_fields__]


def test_a_time_that_is_no_number_is_read_back_as_nan(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path) as writer:
        writer.write(TraceEvent(math.inf, None, "base", "h", 8, "op", math.nan, False))
    (event,) = read_trace(path)
    assert math.isnan(event.ts)
    assert math.isnan(event.wall_ms)

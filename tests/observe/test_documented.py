"""What ``docs/trace.md`` says of a line is what the writer writes and the reader reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from forwardcache import BackendInstrumentation
from forwardcache.observe import TraceEvent, TraceLine, parse, read_trace

PAGE = (Path(__file__).parents[2] / "docs" / "trace.md").read_text("utf-8")
TYPES: dict[str, set[type]] = {
    "integer": {int},
    "string": {str},
    "number": {int, float},
    "null": {type(None)},
}


def documented() -> dict[str, set[type]]:
    """Names of the fields in the page's tables, in order, and their types."""
    rows = re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", PAGE, re.MULTILINE)
    return {name: types_of(words) for name, words in rows}


def types_of(words: str) -> set[type]:
    if "true" in words:
        return {bool}
    return {kind for word in words.split(" or ") for kind in TYPES[word]}


def test_the_tables_have_every_field_and_its_type() -> None:
    eight, fields = list(TraceEvent.__dataclass_fields__), documented()
    assert list(fields)[:8] == eight
    assert set(fields) == {*TraceLine.__dataclass_fields__, "lost"}
    assert fields == {name: set(types) for name, types in parse.FIELD_TYPES.items()}


def test_the_line_that_is_shown_is_one() -> None:
    shown = re.search(r"```json\n(.*\n)```", PAGE)
    assert shown
    event = parse.parse_line(shown[1].strip().encode("ascii"))
    assert isinstance(event, TraceLine)
    assert [name for name in documented() if name in json.loads(shown[1])] == list(vars(event))


def test_the_instrumentation_writes_documented_fields_and_they_are_read_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.jsonl"
    with BackendInstrumentation(trace_path=path, cache_max_bytes=1 << 20) as inst:
        inst.cached("op", "base", "a", 8, lambda: 1)
        inst.cached_batch("op", "ft", ["a", "b"], 8, lambda indices: [1] * len(indices))
        fails(inst)
    written = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    events = list(read_trace(path))
    assert [vars(event) for event in events] == written
    names = list(documented())
    assert all(list(line) == sorted(line, key=names.index) for line in written)
    assert set().union(*written) == {*names} - {"waited", "lost"}


def fails(inst: Any) -> None:
    try:
        inst.cached("op", "base", "b", 8, lambda: 1 / 0)
    except ZeroDivisionError:
        return
    raise AssertionError("the exception is passed through")

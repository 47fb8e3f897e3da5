"""The rows of a part as the JSON lines that one process writes, byte for byte."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np

from forwardcache._core import _float32_texts, _int64_texts
from forwardcache.distributed.parts.table import PartRows
from forwardcache.jobs.columns import InputColumns
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import finite
from forwardcache.operation import Column
from forwardcache.operations import operation

_NULL = "null"
_TRUTHS = {False: "false", True: "true", None: _NULL}


def json_lines(part: PartRows, lines: Sequence[int], columns: InputColumns | None = None) -> bytes:
    """The rows of a part, in their order.

    Args:
        part: The part.
        lines: The line of each prompt of its chunk.
        columns: Where a table is made of them: how it holds ids and carried fields.

    Returns:
        ASCII, each row with its newline.
    """
    texts = {**_head_texts(part, lines, columns), **_value_texts(part)}
    rows: list[tuple[str, ...]] = [()] * len(part)
    for view, name in enumerate(part.facts.views):
        for layout, fields in enumerate(part.layouts):
            at = np.flatnonzero((part.views == view) & (part.layout == layout)).tolist()
            for place, row in zip(at, _rows(part.facts.op, name, fields, texts, at), strict=True):
                rows[place] = row
    return "".join(chain.from_iterable(rows)).encode("ascii")


def prompts_of(part: PartRows, lines: Sequence[int]) -> Iterator[Prompt]:
    """The prompts of the part's chunk, those without rows too, with what they carry and no text."""
    codes = dict(zip(part.positions.tolist(), part.input.tolist(), strict=True))
    for position, line in enumerate(lines):
        is_scored = position in codes
        text = part.inputs[codes[position]] if is_scored else part.unscored[position]
        yield Prompt(line, "", None, json.loads(text))


def _rows(
    op: str, view: str, fields: Sequence[str], texts: Mapping[str, list[str]], at: Sequence[int]
) -> Iterator[tuple[str, ...]]:
    """The rows of one view that have the same fields, in pieces."""
    known = {"view": json.dumps(view), "op": json.dumps(op)}
    columns: list[Iterable[str]] = []
    before = "{"
    for name in ("id", "line", "view", "op", "hit", *fields, "input"):
        before += json.dumps(name) + ": "
        if name in known:
            before += known[name]
        else:
            columns += [repeat(before, len(at)), _picked(texts[name], at)]
            before = ""
        before += ", "
    return zip(*columns, repeat("}\n", len(at)), strict=True)


def _picked(texts: Sequence[str], at: Sequence[int]) -> Sequence[str]:
    if len(at) == len(texts):
        return texts
    return [texts[place] for place in at]


def _head_texts(
    part: PartRows, lines: Sequence[int], columns: InputColumns | None
) -> dict[str, list[str]]:
    """What of each row comes from the input, and whether it was a hit."""
    is_text = columns is not None and columns.id is None
    own = [_own_id(text) for text in part.inputs]
    inputs = part.inputs
    if columns is not None and columns.input is None:
        inputs = [json.dumps(text) for text in inputs]
    numbers = [str(lines[position]) for position in part.positions.tolist()]
    codes = part.input.tolist()
    ids = [own[code] or number for code, number in zip(codes, numbers, strict=True)]
    return {
        "id": [json.dumps(each) for each in ids] if is_text else ids,
        "line": numbers,
        "hit": [_TRUTHS[hit] for hit in part.hits.tolist()],
        "input": [inputs[code] for code in codes],
    }


def _own_id(carried: str) -> str | None:
    """The id that a prompt carries, as JSON; None where its line is its id."""
    if '"id"' not in carried:
        return None
    own = json.loads(carried)
    # Of two lines nobody has both as an id.
    found = {json.dumps(Prompt(line, "", None, own).id) for line in (0, 1)}
    return found.pop() if len(found) == 1 else None


def _value_texts(part: PartRows) -> dict[str, list[str]]:
    """The operation's fields of each row, as far as some row has them."""
    columns = operation(part.facts.op).row_columns()
    present = {name for layout in part.layouts for name in layout}
    return {
        name: _column_texts(kind, part.column(name))
        for name, kind in columns.items()
        if name in present
    }


def _column_texts(kind: Column, column: Any) -> list[str]:
    inner = kind.removesuffix("[]")
    if inner == kind:
        return list(map(_PLAIN[kind], column.to_pylist()))
    if inner in _LISTS:
        return _list_texts(column, _LISTS[inner])
    return [_generic(each) for each in column.to_pylist()]


def _list_texts(column: Any, texts_of: Callable[[bytes, list[int]], list[str]]) -> list[str]:
    """Lists of numbers, which the core writes."""
    offsets = column.offsets.to_numpy()
    numbers = column.values.to_numpy()[offsets[0] : offsets[-1]]
    texts = texts_of(numbers.tobytes(), np.diff(offsets).tolist())
    if not column.null_count:
        return texts
    missing = column.is_null().to_pylist()
    return [_NULL if is_null else text for text, is_null in zip(texts, missing, strict=True)]


def _number(value: float | None) -> str:
    return _NULL if value is None or not math.isfinite(value) else repr(value)


def _generic(value: Any) -> str:
    """Any other list; null for what is no finite number."""
    if isinstance(value, list):
        value = [finite(each) if isinstance(each, float) else each for each in value]
    return json.dumps(value)


_PLAIN: dict[str, Callable[[Any], str]] = {
    "text": json.dumps,
    "bool": _TRUTHS.__getitem__,
    "int64": lambda value: _NULL if value is None else str(value),
    "float64": _number,
}
_LISTS = {"float32": _float32_texts, "int64": _int64_texts}

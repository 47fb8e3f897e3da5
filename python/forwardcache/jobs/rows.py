"""Result rows: what each holds, and how it is written.

One row a prompt and view, JSON lines, prompts in the input's order and a prompt's views in the
order asked for. Floats of the model are written with the digits that float32 has; what is no
finite number is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from forwardcache.jobs.digits import Numbers, float32_lists
from forwardcache.jobs.prompts import Prompt

Row = dict[str, Any]

ROW_FORMAT = 5
"""Rises when rows of ``score`` have other fields or meanings: one file holds rows of one format."""


class RawRow(NamedTuple):
    """What one row says, as it was computed.

    Attributes:
        position: Of its prompt in the job, from 0.
        view: The view's id.
        hit: Whether the value was there already.
        fields: Those of the operation and behind them those that compare with base: plain values
            and one-dimensional arrays.
    """

    position: int
    view: str
    hit: bool
    fields: Row


def written(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Fields as JSON has them: lists for arrays, and null for what is no finite number.

    Args:
        rows: Plain values and one-dimensional arrays; those of float32 get the digits it has.
    """
    arrays = [
        value
        for fields in rows
        for value in fields.values()
        if isinstance(value, np.ndarray) and value.dtype == np.float32
    ]
    digits = iter(float32_lists(arrays))
    return [{name: _plain(value, digits) for name, value in each.items()} for each in rows]


def _plain(value: Any, digits: Iterator[Numbers]) -> Any:
    if isinstance(value, np.ndarray):
        return next(digits) if value.dtype == np.float32 else value.tolist()
    return finite(value) if isinstance(value, float) else value


def row(prompt: Prompt, *, view: str, op: str, hit: bool, fields: Row) -> Row:
    """One row, its fields in the documented order."""
    head = {"id": prompt.id, "line": prompt.line, "view": view, "op": op, "hit": hit}
    return {**head, **fields, "input": prompt.carried}


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def encoded(rows: Sequence[Row]) -> bytes:
    """JSON lines, ASCII."""
    return "".join(_line(row) for row in rows).encode("ascii")


def _line(row: Row) -> str:
    """A row as JSON; numbers whose text is known are not written again."""
    plain: Row = {}
    parts: list[str] = []
    for name, value in row.items():
        if isinstance(value, Numbers):
            parts += [*_inner(plain), f"{json.dumps(name)}: {value.text}"]
            plain = {}
        else:
            plain[name] = value
    return "{" + ", ".join([*parts, *_inner(plain)]) + "}\n"


def _inner(fields: Row) -> list[str]:
    """Fields as JSON without the braces; nothing of none."""
    return [json.dumps(fields, allow_nan=False)[1:-1]] if fields else []

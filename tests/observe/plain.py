"""What a trace's bytes say, by the definitions alone and without regard to time or memory."""

from __future__ import annotations

import json
import math
from typing import Any

from forwardcache.observe import TraceLine

_FURTHER: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "thread": (int,),
    "seq": (int,),
    "key": (str,),
    "batch": (int,),
    "batch_size": (int,),
    "batch_wall_ms": (int, float),
    "bytes": (int,),
    "error": (str,),
    "waited": (bool,),
}


def plainly_read(data: bytes) -> tuple[list[TraceLine], int, int]:
    """Events, how many are lost, and the number of lines that can't be used."""
    *lines, unfinished = data.split(b"\n")
    events, lost, unusable = [], 0, 1 if unfinished else 0
    for line in lines:
        try:
            fields = _object(line)
            event = _event(fields)
        except (ValueError, KeyError, RecursionError, OverflowError):
            unusable += 1
            continue
        gone = fields.get("lost")
        if fields["op"] == "trace_lost" and type(gone) is int and gone > 0:
            lost += gone
        else:
            events.append(event)
    return events, lost, unusable


def _object(line: bytes) -> dict[str, Any]:
    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    def no_number(name: str) -> None:
        raise ValueError(name)

    fields = json.loads(
        line.decode("utf-8"), object_pairs_hook=without_doubles, parse_constant=no_number
    )
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


def _event(fields: dict[str, Any]) -> TraceLine:
    return TraceLine(
        _time(fields["ts"]),
        _one_of(fields["probe"], str, type(None)),
        _one_of(fields["view_id"], str),
        _one_of(fields["prompt_hash"], str),
        _one_of(fields["top_k"], int, type(None)),
        _one_of(fields["op"], str),
        _time(fields["wall_ms"]),
        _one_of(fields["hit"], bool),
        **{name: _further(name, fields[name]) for name in _FURTHER if _is_ours(name, fields)},
    )


def _is_ours(name: str, fields: dict[str, Any]) -> bool:
    return name in fields and type(fields[name]) in _FURTHER[name]


def _further(name: str, value: Any) -> Any:
    return _time(value) if name == "batch_wall_ms" else value


def _one_of(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise ValueError(value)
    return value


def _time(value: Any) -> float:
    if value is None:
        return math.nan
    number = float(_one_of(value, int, float))
    if not math.isfinite(number):
        raise ValueError(value)
    return number

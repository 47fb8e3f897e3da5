"""What one line of a trace says: an event, a count of lost ones, or nothing that can be used.

The first eight fields have to be there with their types, whoever wrote the line. A further field
that isn't in the table, or has another type there, is some other writer's own and is ignored.

Lines in the plain form that the writer gives them are read natively, a block at a time. What is
left (an escape, another writer's field, damage) is judged here, still with an eye on speed: the
types of all fields at once, and a combination of types only the first time it is met.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, nan
from types import NoneType
from typing import Any, Final, NamedTuple, NoReturn

from forwardcache._core import _parse_trace_lines
from forwardcache._event import TraceLine

LOSS_OP = "trace_lost"
"""The op of the line that says how many events are missing before it."""

_NUMBER = frozenset({float, int})
_FIRST_EIGHT: Mapping[str, frozenset[type]] = {
    # Null is how a number that JSON doesn't have (NaN, an infinity) is written.
    "ts": _NUMBER | {NoneType},
    "probe": frozenset({str, NoneType}),
    "view_id": frozenset({str}),
    "prompt_hash": frozenset({str}),
    "top_k": frozenset({int, NoneType}),
    "op": frozenset({str}),
    "wall_ms": _NUMBER | {NoneType},
    "hit": frozenset({bool}),
}
_FURTHER: Mapping[str, frozenset[type]] = {
    "run": frozenset({str}),
    "thread": frozenset({int}),
    "seq": frozenset({int}),
    "key": frozenset({str}),
    "batch": frozenset({int}),
    "batch_size": frozenset({int}),
    "batch_wall_ms": _NUMBER,
    "bytes": frozenset({int}),
    "error": frozenset({str}),
    "waited": frozenset({bool}),
    "lost": frozenset({int}),
}
FIELD_TYPES: Mapping[str, frozenset[type]] = {**_FIRST_EIGHT, **_FURTHER}
"""Each field that a line may have, in the writer's order, and the types that it may have."""

_NAMES = tuple(FIELD_TYPES)
_FLOATS = ("ts", "wall_ms", "batch_wall_ms")


class _Absent:
    """Stands for a field that isn't there, so that its absence is a type like any other."""


_ABSENT: Final = (_Absent(),) * len(_NAMES)


class UnusableLineError(Exception):
    """The line is no event."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class LostEvents:
    """A line that says how many events are missing.

    Attributes:
        ts: Seconds since the epoch, when the line was written; NaN where it says null.
        events: How many.
    """

    ts: float
    events: int


def plain_events(lines: list[bytes]) -> list[TraceLine | None]:
    """The event of each line in its plain form; None for the lines :func:`parse_line` judges."""
    return _parse_trace_lines(lines, TraceLine)


def parse_line(line: bytes) -> TraceLine | LostEvents:
    """What ``line`` says; it has no newline and isn't blank.

    Raises:
        UnusableLineError: with the reason, one of a few.
    """
    fields = _decoded(line)
    values = map(fields.get, _NAMES, _ABSENT)
    shape = _shape_of(tuple(map(type, values)))
    if shape.flaw:
        raise UnusableLineError(shape.flaw)
    if len(fields) != len(shape.usable):
        fields = {name: fields[name] for name in shape.usable}
    for name in shape.to_float:
        fields[name] = _as_float(name, fields[name])
    for name in shape.finite:
        if not isfinite(fields[name]):
            raise UnusableLineError(f"{name} out of range")
    if "lost" in fields and (lost := fields.pop("lost")) > 0 and fields["op"] == LOSS_OP:
        return LostEvents(fields["ts"], lost)
    # The constructor of a frozen dataclass sets one field after the other and takes longer than
    # all of the above; fields that are absent have their defaults in the class.
    event = object.__new__(TraceLine)
    event.__dict__.update(fields)
    return event


class _Shape(NamedTuple):
    """What follows from the types of a line's fields alone.

    Attributes:
        flaw: Why the line is no event; None if it is one.
        usable: Names of the fields that are there and ours.
        to_float: Those that are numbers but are given as integers or null.
        finite: Those that are floats: JSON may hold 1e999, which is none.
    """

    flaw: str | None
    usable: tuple[str, ...] = ()
    to_float: tuple[str, ...] = ()
    finite: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def _shape_of(kinds: tuple[type, ...]) -> _Shape:
    kind_of = dict(zip(_NAMES, kinds, strict=True))
    for name, allowed in _FIRST_EIGHT.items():
        if kind_of[name] is _Absent:
            return _Shape(f"no {name}")
        if kind_of[name] not in allowed:
            return _Shape(f"wrong type of {name}")
    usable = tuple(name for name in _NAMES if kind_of[name] in FIELD_TYPES[name])
    floats = [name for name in _FLOATS if name in usable]
    return _Shape(
        None,
        usable,
        tuple(name for name in floats if kind_of[name] is not float),
        tuple(name for name in floats if kind_of[name] is float),
    )


def _as_float(name: str, value: int | None) -> float:
    try:
        return nan if value is None else float(value)
    except OverflowError:
        raise UnusableLineError(f"{name} out of range") from None


def _refuse_constant(_: str) -> NoReturn:
    raise UnusableLineError("not JSON")  # NaN and Infinity, which Python would take


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise UnusableLineError("a name twice in an object")
    return fields


def _is_each_name_there_once(text: str, fields: dict[str, Any]) -> bool:
    """Whether that can be told without the slower reading; False if it can't.

    A colon follows each name. If there are no more colons than names and what the values hold, no
    name was there a second time. An escape might be a colon that the text doesn't show.
    """
    others = text.count(":") - len(fields)
    if others == 0:
        return True
    if "\\" in text:
        return False
    return others == sum(value.count(":") for value in fields.values() if type(value) is str)


_read_json = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_read_json_watching_names = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates
).raw_decode


def _decoded(line: bytes) -> dict[str, Any]:
    """The fields of a line that is one strict JSON object."""
    try:
        text = line.strip(b" \t\r").decode("utf-8")
        value, end = _read_json(text)
        if type(value) is not dict:
            raise UnusableLineError("not an object")
        if not _is_each_name_there_once(text, value):
            _read_json_watching_names(text)
    except UnicodeDecodeError:
        raise UnusableLineError("not UTF-8") from None
    except json.JSONDecodeError:
        raise UnusableLineError("not JSON") from None
    except RecursionError:
        raise UnusableLineError("nested too deeply") from None
    except ValueError:
        raise UnusableLineError("a number too long") from None
    if end != len(text):
        raise UnusableLineError("not JSON")
    return value

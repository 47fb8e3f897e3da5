"""Which columns a table can have for what a user's own lines hold: their ids and other fields.

A column has one type. Where the values of all prompts agree on one, nested or not, the column has
it; where they don't, or no such type exists in a table, it holds each value as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import Row

# The name of a plain type; a list of one kind; a kind for each field of a struct.
Kind: TypeAlias = "str | list[Kind] | dict[str, Kind]"

_EXACT_IN_FLOAT64 = 2**53
_MOST_FIELDS = 1000
_MOST_DEPTH = 32


class _NoKindError(Exception):
    """The values have no common type that a table has."""


class TableColumns(Protocol):
    """The columns of a table for what comes from the input."""

    def fitted(self, row: Row) -> Row:
        """``row`` as these columns hold it."""

    def schema(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """The types of all columns in polars, in their order."""


@dataclass(frozen=True, slots=True)
class FieldColumns:
    """A column for each field that some row of the input has.

    Attributes:
        kinds: By name: the kind of its values; None where they are JSON text.
    """

    kinds: Mapping[str, Kind | None]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> FieldColumns:
        """The columns that hold what ``rows`` have."""
        names = dict.fromkeys(name for row in rows for name in row)
        return cls({name: _common_kind(row.get(name) for row in rows) for name in names})

    def fitted(self, row: Row) -> Row:
        """``row`` as these columns hold it; what isn't of the input stays."""
        return {
            name: json.dumps(value) if self.kinds.get(name, "") is None else value
            for name, value in row.items()
        }

    def schema(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """The types of all columns in polars, the input's first."""
        return {**{name: _polars_type(kind) for name, kind in self.kinds.items()}, **others}


@dataclass(frozen=True, slots=True)
class InputColumns:
    """The columns ``id`` and ``input``.

    Attributes:
        id: Kind of the ids; None where they are JSON text.
        input: Kind of the carried fields; None where they are JSON text.
    """

    id: Kind | None
    input: Kind | None

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> InputColumns:
        """The columns that hold what ``prompts`` have; they may come in a stream."""
        ids, carried = _CommonKind(), _CommonKind()
        for prompt in prompts:
            ids.note(prompt.id)
            carried.note(prompt.carried)
        return cls(ids.kind(), carried.kind())

    def fitted(self, row: Row) -> Row:
        """``row`` as these columns hold it."""
        texts = {
            name: json.dumps(row[name])
            for name, kind in (("id", self.id), ("input", self.input))
            if kind is None
        }
        return {**row, **texts}

    def schema(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """The types of all columns in polars: ``others`` stand between these two."""
        return {"id": _polars_type(self.id), **others, "input": _polars_type(self.input)}


class _CommonKind:
    """The kind that holds all values that were noted; None where no type of a table does."""

    def __init__(self) -> None:
        self._kind: Kind | None = "null"

    def note(self, value: Any) -> None:
        if self._kind is None:
            return
        try:
            self._kind = _united(self._kind, _kind_of(value, _MOST_DEPTH))
        except _NoKindError:
            self._kind = None

    def kind(self) -> Kind | None:
        try:
            return None if self._kind in (None, "null") else _written(self._kind)
        except _NoKindError:
            return None


def _common_kind(values: Iterable[Any]) -> Kind | None:
    common = _CommonKind()
    for value in values:
        common.note(value)
    return common.kind()


def _kind_of_all(values: Iterable[Any], depth: int) -> Kind:
    kind: Kind = "null"
    for value in values:
        kind = _united(kind, _kind_of(value, depth))
    return kind


def _written(kind: Kind) -> Kind:
    """``kind``, if a table can be written with it: no struct in it is without fields."""
    inner = kind.values() if isinstance(kind, dict) else kind if isinstance(kind, list) else ()
    if kind == {}:
        raise _NoKindError
    for each in inner:
        _written(each)
    return kind


def _kind_of(value: Any, depth: int) -> Kind:
    if depth == 0:
        raise _NoKindError
    if isinstance(value, dict):
        for name in value:
            _plain_kind(name)
        return {name: _kind_of(each, depth - 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_kind_of_all(value, depth - 1)]
    return _plain_kind(value)


def _plain_kind(value: Any) -> Kind:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float"
    if isinstance(value, int):
        return _int_kind(value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # Half a surrogate pair, which JSON can escape and a table can't hold.
        raise _NoKindError from None
    return "text"


def _int_kind(value: int) -> Kind:
    if abs(value) <= _EXACT_IN_FLOAT64:
        return "int"
    if -(2**63) <= value < 2**63:
        return "long"
    raise _NoKindError


_WIDER = {frozenset(("int", "long")): "long", frozenset(("int", "float")): "float"}


def _united(one: Kind, other: Kind) -> Kind:
    """The kind that holds values of both, exactly."""
    if other in (one, "null"):
        return one
    if one == "null":
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        names = {**one, **other}
        if len(names) > _MOST_FIELDS:
            raise _NoKindError
        return {name: _united(one.get(name, "null"), other.get(name, "null")) for name in names}
    if isinstance(one, list) and isinstance(other, list):
        return [_united(one[0], other[0])]
    if isinstance(one, str) and isinstance(other, str):
        wider = _WIDER.get(frozenset((one, other)))
        if wider is not None:
            return wider
    raise _NoKindError


def _polars_type(kind: Kind | None) -> Any:
    import polars as pl

    if isinstance(kind, dict):
        return pl.Struct({name: _polars_type(each) for name, each in kind.items()})
    if isinstance(kind, list):
        return pl.List(_polars_type(kind[0]))
    plain = {"bool": pl.Boolean, "int": pl.Int64, "long": pl.Int64, "float": pl.Float64}
    return plain.get(kind or "text", pl.String)

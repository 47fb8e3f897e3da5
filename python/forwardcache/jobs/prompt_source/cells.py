"""Rows of a table as lines of JSON.

What JSON has a value for stays what it is. Dates, times and decimals become text, as Arrow writes
them: ``2026-02-01``, ``2026-02-01 12:00:00.000000``, ``1.50``. Columns of anything else (bytes,
durations, unions) are refused by name. A number that isn't finite is refused with its row, when
that is read as a prompt.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import chain, repeat
from json.encoder import encode_basestring
from typing import TYPE_CHECKING

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.reasons import shown

if TYPE_CHECKING:
    import pyarrow as pa

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Rows:
    """How the rows of a table become lines.

    Args:
        name: The table's, for a message.
        schema: Its columns.

    Raises:
        InvalidInputError: a column holds what JSON has no value for, or two have one name.
    """

    def __init__(self, name: str, schema: pa.Schema) -> None:
        import pyarrow as pa

        self._name = name
        if not schema.names:
            raise InvalidInputError(f"{name} has no columns")
        _refuse_doubles(name, schema.names)
        self._schema = pa.schema([(each.name, self._written(each)) for each in schema])
        names = [encode_basestring(name) for name in schema.names]
        self._heads = [f"{',' if at else '{'}{name}:" for at, name in enumerate(names)]

    def lines(self, batch: pa.RecordBatch, number: int) -> list[bytes]:
        """Each row as an object with all columns, in their order.

        Args:
            batch: Some rows.
            number: That of the first, for a message.

        Raises:
            InvalidInputError: a map has a key twice; its row is named.
        """
        if batch.schema.types != self._schema.types:
            batch = batch.cast(self._schema)
        try:
            return self._written_lines(batch)
        except (UnicodeDecodeError, KeyError):
            every = range(batch.num_rows)
            return [self._alone(batch.slice(at, 1), number + at) for at in every]

    def _written_lines(self, batch: pa.RecordBatch) -> list[bytes]:
        # Column by column, as the fields of a row are written: most of it is done without a step
        # of Python's for each cell.
        texts = [_texts(column) for column in batch.columns]
        parts = chain.from_iterable(zip(map(repeat, self._heads), texts, strict=True))
        return [line.encode("utf-8") for line in map("".join, zip(*parts, repeat("}")))]

    def _alone(self, row: pa.RecordBatch, number: int) -> bytes:
        try:
            return self._written_lines(row)[0]
        except UnicodeDecodeError as error:
            # Whoever reads the line, which has to stay one, finds the same fault in it, and says so
            # or skips it.
            return bytes(error.object).replace(b"\n", b" ")
        except KeyError as error:
            reason = f"a map has a key twice ({error.args[0]})"
            raise InvalidInputError(f"{self._name} line {number}: {reason}") from error

    def _written(self, field: pa.Field) -> pa.DataType:
        try:
            return _target(field.type)
        except _NoValueError as error:
            raise InvalidInputError(
                f"{self._name}: the column {shown(field.name)} holds {error}, for which JSON has "
                "no value: leave it out, or write it as text"
            ) from None


def _texts(column: pa.Array) -> list[str]:
    """A column's cells as JSON; what isn't finite as a word that no parser of JSON takes."""
    from pyarrow import types

    cells = column.to_pylist(maps_as_pydicts="strict")
    if types.is_string(column.type):
        return ["null" if cell is None else encode_basestring(cell) for cell in cells]
    return list(map(_encode, cells))


class _NoValueError(Exception):
    """A type that JSON has no value for; the message is its name."""


def _target(kind: pa.DataType) -> pa.DataType:
    """What a type is cast to, so that Python's objects of it are those of JSON."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(kind, pa.BaseExtensionType):
        return _target(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _target(kind.value_type)
    return _nested_target(kind) if types.is_nested(kind) else _plain_target(kind)


def _nested_target(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa
    from pyarrow import types

    if types.is_map(kind) and types.is_string(kind.key_type):
        return pa.map_(kind.key_type, _target(kind.item_type))
    if types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        if len({each.name for each in fields}) == len(fields):
            return pa.struct([(each.name, _target(each.type)) for each in fields])
    if types.is_fixed_size_list(kind):
        return pa.list_(_target(kind.value_type), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_target(kind.value_type))
    if types.is_list(kind):
        return pa.list_(_target(kind.value_type))
    raise _NoValueError(str(kind))


def _plain_target(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa
    from pyarrow import types

    if types.is_float16(kind):
        return pa.float32()
    if types.is_date(kind) or types.is_time(kind) or types.is_timestamp(kind):
        return pa.string()
    if types.is_decimal(kind):
        return pa.string()
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    if any(is_one(kind) for is_one in (*texts, *numbers)):
        return kind
    raise _NoValueError(str(kind))


def _refuse_doubles(table: str, names: Iterable[str]) -> None:
    """Refuse columns of one name: Arrow's own rows would keep the last of them."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InvalidInputError(f"{table}: two columns are called {shown(twice[0])}")

"""JSON lines of rows into a parquet table, streamed: neither has to fit into memory."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forwardcache.jobs.columns import TableColumns
from forwardcache.jobs.reasons import first_line
from forwardcache.operation import Column
from forwardcache.operations import operation

_COMMON: dict[str, Column] = {"line": "int64", "view": "text", "op": "text", "hit": "bool"}


def write_parquet(
    part: Path,
    target: Path,
    input_columns: TableColumns,
    metadata: Mapping[str, str],
    columns: Mapping[str, Column] | None = None,
) -> None:
    """Stream JSON lines into parquet.

    Args:
        part: The rows, as ``input_columns`` hold them.
        target: The table.
        input_columns: The types of what comes from the input.
        metadata: Keys and values of the file.
        columns: The others; None for those of score's rows.

    Raises:
        OSError: it could not be written.
    """
    import polars as pl

    fields = _scored_columns(part) if columns is None else columns
    schema = input_columns.schema({name: _type_of(column) for name, column in fields.items()})
    try:
        pl.scan_ndjson(part, schema=schema).sink_parquet(target, metadata=dict(metadata))
    except pl.exceptions.PolarsError as error:
        raise OSError(errno.EIO, first_line(error)) from error


def _scored_columns(part: Path) -> dict[str, Column]:
    """The columns of score's rows, as far as the rows have them."""
    op, present = _first_prompt(part)
    fields = _COMMON if op is None else {**_COMMON, **operation(op).row_columns()}
    return {name: column for name, column in fields.items() if name in present}


def _first_prompt(part: Path) -> tuple[str | None, set[str]]:
    """The operation, None without a row, and the fields of the first prompt's rows.

    A view other than base has fields that base hasn't.
    """
    op = None
    # All prompts may have been skipped.
    columns = set(_COMMON)
    views: set[str] = set()
    with part.open("rb") as lines:
        for row in map(json.loads, lines):
            if row["view"] in views:
                break
            op = row["op"]
            views.add(row["view"])
            columns.update(row)
    return op, columns


def _type_of(column: Column) -> Any:
    """The column's type in polars."""
    import polars as pl

    plain = {"text": pl.String, "bool": pl.Boolean, "int64": pl.Int64, "float64": pl.Float64}
    plain["float32"] = pl.Float32
    inner = column.removesuffix("[]")
    return plain[inner] if inner == column else pl.List(plain[inner])

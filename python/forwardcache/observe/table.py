"""Events as a parquet table, a column a field of the line; needs polars."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from forwardcache._event import TraceLine
from forwardcache.extras import extra_named

with extra_named("a table of a trace"):
    import polars as pl
    from polars.io.plugins import register_io_source

_ROWS = 50_000

SCHEMA = pl.Schema(
    {
        "ts": pl.Float64,
        "probe": pl.String,
        "view_id": pl.String,
        "prompt_hash": pl.String,
        "top_k": pl.Int64,
        "op": pl.String,
        "wall_ms": pl.Float64,
        "hit": pl.Boolean,
        "run": pl.String,
        "thread": pl.Int64,
        "seq": pl.Int64,
        "key": pl.String,
        "batch": pl.Int64,
        "batch_size": pl.Int64,
        "batch_wall_ms": pl.Float64,
        "bytes": pl.Int64,
        "error": pl.String,
        "waited": pl.Boolean,
    }
)
"""Names and types of the columns, in the order of ``docs/trace.md``."""

_INT64 = range(-(2**63), 2**63)


def write_parquet(events: Iterable[TraceLine], path: Path) -> None:
    """Stream events into a parquet file.

    What parquet can't hold is written as near as it can: an integer beyond 64 bits and a time that
    is no number as null, half a surrogate pair as its escape.

    Args:
        events: What ``read_trace`` gives.
        path: The file; one that is there is replaced.

    Raises:
        OSError: it could not be written.
    """
    stream = iter(events)

    # A source of the lazy engine, so that no more than a few frames are held at a time.
    def frames(*_: object) -> Iterator[pl.DataFrame]:
        while rows := list(islice(stream, _ROWS)):
            yield _frame(rows)

    try:
        register_io_source(frames, schema=SCHEMA).sink_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise OSError(errno.EIO, str(error).partition("\n")[0]) from error


def _frame(rows: list[TraceLine]) -> pl.DataFrame:
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA}
    return pl.DataFrame([_column(name, columns[name]) for name in SCHEMA])


def _column(name: str, values: list[Any]) -> pl.Series:
    kind = SCHEMA[name]
    try:
        column = pl.Series(name, values, dtype=kind)
    except (TypeError, OverflowError, UnicodeEncodeError, pl.exceptions.PolarsError):
        column = pl.Series(name, [_storable(value) for value in values], dtype=kind)
    return column.fill_nan(None) if kind == pl.Float64 else column


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int) and value not in _INT64:
        return None
    return value

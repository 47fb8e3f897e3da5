"""The rows of a table, read one by one: which there are, and the whole of those that are wanted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.reasons import first_line
from forwardcache.jobs.rows import Row

Name = tuple[int, str]
"""The line of a row's prompt, and its view."""


@dataclass(slots=True)
class Table:
    """What was read of a table.

    Attributes:
        names: Line and view of every row, in the table's order.
        rows: By name: the rows of the lines that were wanted; of two with one name the first.
    """

    names: list[Name] = field(default_factory=list)
    rows: dict[Name, Row] = field(default_factory=dict)


def read_table(path: Path, lines: Collection[int]) -> Table:
    """Read a table, and keep the rows of some prompts.

    Args:
        path: JSON lines or Parquet.
        lines: The prompts whose rows are wanted whole.

    Raises:
        InvalidInputError: it holds something else than rows of a run.
        OSError: it can't be read.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    return _of_parquet(path, lines) if is_parquet else _of_json_lines(path, lines)


def _of_json_lines(path: Path, lines: Collection[int]) -> Table:
    found = Table()
    for number, row in _rows(path):
        line, view = row.get("line"), row.get("view")
        if type(line) is not int or not isinstance(view, str):
            raise InvalidInputError(f"{path} line {number}: a row has a line and a view")
        found.names.append((line, view))
        if line in lines:
            found.rows.setdefault((line, view), row)
    return found


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                row = json.loads(text, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                raise InvalidInputError(
                    f"{path} line {number} is not JSON: {first_line(error)}"
                ) from error
            if not isinstance(row, dict):
                raise InvalidInputError(f"{path} line {number} is no row: not a JSON object")
            yield number, row


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def _of_parquet(path: Path, lines: Collection[int]) -> Table:
    import polars as pl

    try:
        with path.open("rb"):
            frame = pl.scan_parquet(path)
        kinds = frame.collect_schema()
        if kinds.get("line") != pl.Int64 or kinds.get("view") != pl.String:
            raise InvalidInputError(f"{path} holds no rows of a run: no columns line and view")
        names = frame.select("line", "view").collect()
        if any(names.null_count().row(0)):
            raise InvalidInputError(f"{path} holds rows without a line or a view")
        wanted = frame.filter(pl.col("line").is_in(list(lines))).collect()
    except pl.exceptions.PolarsError as error:
        raise InvalidInputError(f"{path} holds no rows of a run: {first_line(error)}") from error
    found = Table([*names.iter_rows()])
    for row in wanted.iter_rows(named=True):
        found.rows.setdefault((row["line"], row["view"]), _without_nulls(row))
    return found


def _without_nulls(row: dict[str, Any]) -> Row:
    """A row as JSON lines have it: a table has a column for what only other views' rows have."""
    return {name: value for name, value in row.items() if value is not None}

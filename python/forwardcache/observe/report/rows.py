"""Rows of a frame as JSON values, in an order that is the same for the same rows."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

Figures = dict[str, Any]

_MOST_ROWS = 200


def rows_of(
    frame: pl.DataFrame, by: str, *, descending: bool = True, most: int = _MOST_ROWS
) -> list[Figures]:
    """The first rows of ``frame`` by one column, as JSON values; what is no number is None."""
    texts = frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
    ordered = _sorted(texts, by, descending=descending)
    return [as_json(row) for row in ordered.head(most).iter_rows(named=True)]


def first_rows(frame: pl.DataFrame, by: str, most: int) -> pl.DataFrame:
    """The ``most`` rows with the largest values in ``by``, as they stand in :func:`rows_of`."""
    # Null, and so nothing, of no rows.
    least = pl.col(by).top_k(most).min()
    texts = frame.filter(pl.col(by) >= least).with_columns(pl.col(pl.Categorical).cast(pl.String))
    return _sorted(texts, by, descending=True).head(most)


def _sorted(frame: pl.DataFrame, by: str, *, descending: bool) -> pl.DataFrame:
    # The other columns decide between equals, so that a report of the same trace is the same.
    rest = [name for name in frame.columns if name != by]
    order = [descending, *(False for _ in rest)]
    return frame.sort([by, *rest], descending=order, nulls_last=True)


def as_json(row: Figures) -> Figures:
    """``row`` with None for what is no number."""
    return {name: None if _is_no_number(value) else value for name, value in row.items()}


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)

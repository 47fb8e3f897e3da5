"""JSON lines of rows into a parquet table, streamed: neither has to fit into memory."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forwardcache.jobs.columns import InputColumns
from forwardcache.jobs.reasons import first_line


def write_parquet(
    part: Path, target: Path, input_columns: InputColumns, metadata: Mapping[str, str]
) -> None:
    """Stream JSON lines into parquet.

    Args:
        part: The rows, as ``input_columns`` hold them.
        target: The table.
        input_columns: The types of what comes from the input.
        metadata: Keys and values of the file.

    Raises:
        OSError: it could not be written.
    """
    import polars as pl

    types: dict[str, Any] = {
        "id": None, "line": pl.Int64, "view": pl.String, "op": pl.String, "hit": pl.Boolean,
        "top_k": pl.Int64,
        "token_ids": pl.List(pl.Int64), "logprobs": pl.List(pl.Float32), "tail_logprob": pl.Float64,
        "vocab_size": pl.Int64, "num_tokens": pl.Int64, "total_logprob": pl.Float64,
        "logprob": pl.Float64, "spans_boundary": pl.Boolean, "kl_base_nats": pl.Float64,
        "kl_lower_bound": pl.Float64, "mass_outside": pl.Float64, "compared_tokens": pl.Int64,
        "delta_nats": pl.Float64, "input": None,
    }  # fmt: skip
    types.update(input_columns.types())
    columns = _columns(part)
    # All prompts may have been skipped.
    columns = columns or {"id", "line", "view", "op", "hit", "input"}
    schema = {name: kind for name, kind in types.items() if name in columns}
    try:
        pl.scan_ndjson(part, schema=schema).sink_parquet(target, metadata=dict(metadata))
    except pl.exceptions.PolarsError as error:
        raise OSError(errno.EIO, first_line(error)) from error


def _columns(part: Path) -> set[str]:
    """The fields of the first prompt's rows; a view beside base has one that base hasn't."""
    columns: set[str] = set()
    views: set[str] = set()
    with part.open("rb") as lines:
        for row in map(json.loads, lines):
            if row["view"] in views:
                break
            views.add(row["view"])
            columns.update(row)
    return columns

"""Rows of ``diff``: one a text and view, with the arrays of ``PositionDifferences``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import Row, written
from forwardcache.operation import Column
from forwardcache.scoring import PositionDifferences

ROW_FORMAT = 1
"""Rises when rows have other fields or meanings: one file holds rows of one format."""

ARRAYS: Mapping[str, Column] = {
    "token_ids": "int64[]",
    "kl": "float64[]",
    "kl_reverse": "float64[]",
    "js": "float64[]",
    "logprob_reference": "float32[]",
    "logprob": "float32[]",
    "entropy_reference": "float32[]",
    "same_top": "bool[]",
    "top_k_agreement": "float32[]",
    "counts": "bool[]",
}
"""By name: the type of each array of a row, in its order."""

COLUMNS: Mapping[str, Column] = {
    "line": "int64", "view": "text", "reference": "text", **ARRAYS, "tokens": "text[]"
}  # fmt: skip
"""The columns of a table of rows, between ``id`` and ``input``."""


def rows_of(
    prompt: Prompt,
    reference: str,
    found: Mapping[str, PositionDifferences],
    tokens: Sequence[str],
) -> list[Row]:
    """The rows of one text; what is no finite number is None.

    Args:
        prompt: The text.
        reference: Name of what the views are held against.
        found: By name of each view: its differences.
        tokens: The text of each token.
    """
    arrays = written([_arrays(one) for one in found.values()])
    return [
        {
            "id": prompt.id,
            "line": prompt.line,
            "view": view,
            "reference": reference,
            **each,
            "tokens": list(tokens),
            "input": prompt.carried,
        }
        for view, each in zip(found, arrays, strict=True)
    ]


def _arrays(one: PositionDifferences) -> dict[str, Any]:
    found = {name: getattr(one, name) for name in ARRAYS}
    return {
        name: _with_nulls(array) if ARRAYS[name] == "float64[]" else array
        for name, array in found.items()
    }


def _with_nulls(array: NDArray[np.float64]) -> list[float | None]:
    values: list[float] = array.tolist()
    if np.isfinite(array).all():
        return list(values)
    return [value if math.isfinite(value) else None for value in values]

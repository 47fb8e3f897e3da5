"""Rows that are spoilt by others of their batch: a NaN times a weight of zero is a NaN.

Where rows meet in one sum, masked or not, one row's infinity makes a NaN of all. So a row with a
NaN that had company is computed again, alone; most often it then has a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


def without_spoilt(logits: Tensor, rows: int, alone: Callable[[int], Tensor]) -> Tensor:
    """``logits`` [rows, vocab], in which rows with a NaN are those of ``alone(row)`` [1, vocab]."""
    if rows < 2:
        return logits
    spoilt = logits.sum(-1).isnan()
    if not bool(spoilt.any()):
        return logits
    logits = logits.clone()
    for row in spoilt.nonzero().flatten().tolist():
        logits[row] = alone(row)[0]
    return logits


def values_without_spoilt(
    values: Sequence[Tensor], alone: Callable[[int], Sequence[Tensor]]
) -> list[Tensor]:
    """``values``, in which those with a NaN are the only one of ``alone(position)``."""
    if len(values) < 2:
        return list(values)
    return [
        alone(position)[0] if bool(value.isnan().any()) else value
        for position, value in enumerate(values)
    ]

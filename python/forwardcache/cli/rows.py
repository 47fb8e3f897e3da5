"""Result rows: what each holds, and how it is written.

One row a prompt and view, JSON lines, prompts in the input's order and a prompt's views in the
order asked for. Floats of the model are written with the digits that float32 has; what is no
finite number is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.cli.prompts import Prompt
from forwardcache.scoring import RollingLogprob, TokenDist

Row = dict[str, Any]


def value_fields(op: str, value: Any, top_k: int) -> Row:
    """The fields of one value, by op."""
    if op == "next_token_dist":
        return _dist_fields(value, top_k)
    if op == "rolling_logprob":
        return _rolling_fields(value)
    return {
        "logprob": finite(value.logprob),
        "num_tokens": value.num_tokens,
        "spans_boundary": value.spans_boundary,
    }


def _dist_fields(dist: TokenDist, top_k: int) -> Row:
    return {
        "top_k": top_k,
        "token_ids": dist.token_ids.tolist(),
        "logprobs": float32_list(dist.logprobs),
        "tail_logprob": finite(dist.tail_logprob),
        "vocab_size": dist.vocab_size,
    }


def _rolling_fields(rolling: RollingLogprob) -> Row:
    return {
        "num_tokens": rolling.num_tokens,
        "token_ids": rolling.token_ids.tolist(),
        "logprobs": float32_list(rolling.logprobs),
        "total_logprob": finite(rolling.total_logprob),
    }


def row(
    prompt: Prompt, *, view: str, op: str, hit: bool, fields: Row, against_base: Row | None
) -> Row:
    """One row, its fields in the documented order."""
    head = {"id": prompt.id, "line": prompt.line, "view": view, "op": op, "hit": hit}
    return {**head, **fields, **(against_base or {}), "input": prompt.carried}


def finite(value: float | None) -> float | None:
    """``value``, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def float32_list(values: NDArray[np.float32]) -> list[float | None]:
    """The shortest decimals that read back as the same float32."""
    short: list[float] = values.astype(str).astype(np.float64).tolist()
    return list(map(finite, short)) if not np.isfinite(values).all() else list(short)


def encoded(rows: Sequence[Row]) -> bytes:
    """JSON lines, ASCII."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode("ascii")

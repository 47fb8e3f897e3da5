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

from forwardcache.jobs.digits import Numbers, float32_lists
from forwardcache.jobs.prompts import Prompt
from forwardcache.scoring import CompletionLogprob, RollingLogprob, TokenDist

Row = dict[str, Any]


def fields_of(op: str, values: Sequence[Any], top_k: int) -> list[Row]:
    """The fields of each value, by op."""
    if op == "logprob_of":
        return list(map(_completion_fields, values))
    logprobs = float32_lists([value.logprobs for value in values])
    if op == "rolling_logprob":
        return list(map(_rolling_fields, values, logprobs))
    return [
        _dist_fields(value, digits, top_k) for value, digits in zip(values, logprobs, strict=True)
    ]


def _completion_fields(value: CompletionLogprob) -> Row:
    return {
        "logprob": finite(value.logprob),
        "num_tokens": value.num_tokens,
        "spans_boundary": value.spans_boundary,
    }


def _dist_fields(dist: TokenDist, logprobs: Numbers, top_k: int) -> Row:
    return {
        "top_k": top_k,
        "token_ids": dist.token_ids.tolist(),
        "logprobs": logprobs,
        "tail_logprob": finite(dist.tail_logprob),
        "vocab_size": dist.vocab_size,
    }


def _rolling_fields(rolling: RollingLogprob, logprobs: Numbers) -> Row:
    return {
        "num_tokens": rolling.num_tokens,
        "token_ids": rolling.token_ids.tolist(),
        "logprobs": logprobs,
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


def float32_list(values: NDArray[np.float32]) -> Numbers:
    """The shortest decimals that read back as the same float32; None for what is no number."""
    return float32_lists([values])[0]


def encoded(rows: Sequence[Row]) -> bytes:
    """JSON lines, ASCII."""
    return "".join(_line(row) for row in rows).encode("ascii")


def _line(row: Row) -> str:
    """A row as JSON; numbers whose text is known are not written again."""
    plain: Row = {}
    parts: list[str] = []
    for name, value in row.items():
        if isinstance(value, Numbers):
            parts += [*_inner(plain), f"{json.dumps(name)}: {value.text}"]
            plain = {}
        else:
            plain[name] = value
    return "{" + ", ".join([*parts, *_inner(plain)]) + "}\n"


def _inner(fields: Row) -> list[str]:
    """Fields as JSON without the braces; nothing of none."""
    return [json.dumps(fields, allow_nan=False)[1:-1]] if fields else []

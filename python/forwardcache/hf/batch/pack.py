"""Rows of several lengths as one sequence without padding, in which each row sees only itself.

Nearly all of a model works token by token; only attention looks at other positions. So only
attention has to know where the rows begin. transformers lets a configuration name the attention
that its layers call, and for the time of one forward that is ours: it cuts queries, keys and values
at the ends of the rows and gives each row to the same kernel that it would meet alone, so no mask
is built and no position is computed for padding. Positions begin anew in every row.

On a CPU the sum of small attention calls costs no more than one padded call. A GPU would wait for
each of them, so there rows are padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from forwardcache.hf.batch.prefix import is_full_attention
from forwardcache.hf.batch.row import Row

_NAME = "forwardcache_rows_apart"

# Of tokens: 16 numbers up to the budget of a batch, for 3 % more of them.
_ROUND = 64


@dataclass(slots=True)
class _Rows:
    """The rows of the forward that is running.

    Attributes:
        blocks: Neighbours of equal length, as their number and that length.
        attended: How often attention was asked for.
    """

    blocks: list[tuple[int, int]]
    attended: int = 0


_running: ContextVar[_Rows | None] = ContextVar("rows_apart", default=None)


def can_pack(causal_lm: Any) -> bool:
    """Whether rows of several lengths may run as one sequence: full attention by sdpa on a CPU."""
    config = causal_lm.config.get_text_config()
    return (
        causal_lm.device.type == "cpu"
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and is_full_attention(config)
    )


def packed(rows: Sequence[Row]) -> dict[str, Tensor]:
    """The model's inputs for ``rows`` as one sequence, each [1, tokens of all rows]."""
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row]]),
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows]).unsqueeze(0),
    }


def filled(rows: Sequence[Row], dtype: torch.dtype) -> list[Row]:
    """``rows``, in half precision with rows of one token that make their sum a round number.

    There a CPU's matrix products are compiled for each number of tokens that it meets, which takes
    as long as several of them, and up to a thousand are kept, half a megabyte each (oneDNN).
    """
    missing = -sum(map(len, rows)) % _ROUND if dtype.itemsize < 4 else 0
    return [*rows, *[rows[-1][-1:]] * missing]


@contextmanager
def rows_apart(causal_lm: Any, lengths: Sequence[int]) -> Iterator[_Rows]:
    """While it lasts, a forward of this thread keeps rows of these lengths apart.

    The caller holds the model's lock: the configuration names another attention meanwhile.

    Yields:
        Something whose ``attended`` counts the attentions that were asked for. A forward that did
        not ask once in each layer looked across rows.
    """
    config = causal_lm.config.get_text_config()
    rows = _Rows([(len(list(equal)), length) for length, equal in groupby(lengths)])
    named = config._attn_implementation
    token = _running.set(rows)
    config._attn_implementation = _NAME
    try:
        yield rows
    finally:
        config._attn_implementation = named
        _running.reset(token)


def _attend_apart(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of [1, heads, tokens, width] row by row: [1, tokens, heads, width]."""
    rows = _running.get()
    if rows is None or attention_mask is not None:
        raise RuntimeError("the model is scoring in another thread; take turns with it")
    rows.attended += 1
    sizes = [count * length for count, length in rows.blocks]
    parts = [torch.split(states, sizes, 2) for states in (query, key, value)]
    attended = [
        _attend_block(module, [_rows(states, *block) for states in part], options)
        for block, part in zip(rows.blocks, zip(*parts, strict=True), strict=True)
    ]
    return torch.cat(attended, 1), None


def _attend_block(module: Any, states: Sequence[Tensor], options: dict[str, Any]) -> Tensor:
    """Attention of [count, heads, length, width] as [1, count x length, heads, width]."""
    query, key, value = states
    attended: Tensor
    attended, _ = sdpa_attention_forward(module, query, key, value, None, **options)
    return attended.reshape(1, -1, *attended.shape[2:])


def _rows(states: Tensor, count: int, length: int) -> Tensor:
    """A block's [1, heads, count x length, width] as [count, heads, length, width]."""
    if count == 1:
        return states
    _, heads, _, width = states.shape
    return states[0].view(heads, count, length, width).transpose(0, 1)


AttentionInterface.register(_NAME, _attend_apart)

"""Hidden states as values that are kept, and kept ones as tensors; the bits stay what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from forwardcache.hf.batch.row import Row
from forwardcache.scoring import HiddenStates

_BITS = {torch.bfloat16: torch.uint16}
_DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


def values_of(rows: Sequence[Row], states: Sequence[Tensor]) -> Iterable[HiddenStates]:
    """The values of rows of tokens.

    Args:
        rows: The tokens.
        states: [tokens, width] for each, on any device.
    """
    if states and states[0].device.type != "cpu":
        # One transfer for all.
        states = torch.split(torch.cat(list(states)).cpu(), list(map(len, states)))
    for row, each in zip(rows, states, strict=True):
        name = str(each.dtype).removeprefix("torch.")
        bits = each.detach().contiguous().view(_BITS.get(each.dtype, each.dtype))
        yield HiddenStates(np.array(row, dtype=np.int64), bits.numpy(), name)


def tensor_of(
    value: HiddenStates, begin: int, end: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The states of the tokens from ``begin`` to ``end``, [end - begin, width]; a copy."""
    dtype = _DTYPES[value.dtype]
    # A copy: torch warns of memory that can't be written.
    bits = torch.from_numpy(value.states[begin:end].copy())
    return bits.view(dtype).to(device)

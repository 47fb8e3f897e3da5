"""Rows that decode together over one KV cache, joining and leaving between steps.

Rows are padded on the left, so that every row's next token is the last column; a mask and each
row's own position ids make up for it. For a row that joins, one forward reads its prompt, and its
keys and values are put next to those of the others; a row that leaves takes its own with it, and
columns that are padding for all who stay go too, so memory follows the rows that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.kvcache import (
    check_filled,
    named_argument,
    needed_cache_argument,
)

Tokens = Sequence[int]

# Every vocabulary has these; the longer row moves the shorter one's tokens by seven positions.
_SHORT, _LONG = (0, 1), (1, 0, 0, 1, 1, 0, 1, 0, 0)
# Most that rounding moves logits, in their standard deviations: in half precision, in float32.
_SAME = (0.1, 1e-3)


class DecodingRows:
    """The rows of one view that decode together. The caller has switched the model to that view.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.

    Raises:
        UnsupportedModelError: the model keeps something else than the keys and values of every
            position, so that rows can't be joined, or takes no cache of them.
    """

    def __init__(self, model: Any, causal_lm: Any) -> None:
        self._model = model
        self._lm = causal_lm
        self._argument = needed_cache_argument(causal_lm)
        self._takes_positions = named_argument(causal_lm, "position_ids") is not None
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=causal_lm.device)
        _check_cache(self._new_cache())

    def __len__(self) -> int:
        """Rows that are there."""
        return len(self._mask)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are held."""
        if self._cache is None:
            return 0
        return sum(tensor.nbytes for layer in self._cache.layers for tensor in _states(layer))

    def check(self) -> None:
        """Decodes a short row alone and batched with a longer one, and forgets both.

        Raises:
            UnsupportedModelError: the model doesn't use its cache, or not the positions of its
                tokens that it is told, so that a row would depend on those batched with it.
        """
        alone = self._last_of([_SHORT])
        batched = self._last_of([_SHORT], [_LONG])
        limit = _SAME[self._lm.dtype.itemsize >= 4]
        apart = float((alone - batched).abs().max() / alone.std().clamp(min=1e-6))
        if not apart <= limit:
            raise UnsupportedModelError(
                f"{type(self._lm).__name__}: a row that is batched with a longer one has other "
                f"logits than alone ({apart:.2g} of their deviation), so its tokens would depend "
                "on the batch"
            )

    def _last_of(self, *joining: Sequence[Tokens]) -> Tensor:
        """Logits [vocab] after one more token of the first row, of rows that join in this order."""
        for prompts in joining:
            self.join(prompts)
        logits = self.step([0] * len(self))
        self.keep([])
        return logits[0]

    def join(self, prompts: Sequence[Tokens]) -> Tensor:
        """Adds rows after those that are there; logits [prompts, vocab] after each prompt."""
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        joining, joining_mask = self._new_cache(), self._tensor(mask)
        logits = self._forward(self._tensor(padded), joining_mask, joining)
        if self._cache is None:
            self._cache, self._mask = joining, joining_mask
        else:
            self._merge(joining, joining_mask)
        return logits

    def step(self, tokens: Tokens) -> Tensor:
        """Feeds one token to every row, in order; logits [rows, vocab] after it."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        column = self._tensor([[token] for token in tokens])
        return self._forward(column, self._mask, self._cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Frees all rows but those at ``rows``, which keep their order."""
        if not rows:
            self._cache, self._mask = None, self._mask[:0, :0]
            return
        index = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[index]
        first = int(mask.any(0).long().argmax())
        self._mask = mask[:, first:]
        for layer in self._cache.layers:
            layer.keys, layer.values = (
                # A copy: a view would keep the memory of the rows that left.
                states[index, :, first:].clone()
                for states in _states(layer)
            )

    def _forward(self, tokens: Tensor, mask: Tensor, cache: Any) -> Tensor:
        width = tokens.shape[1]
        arguments: dict[str, Any] = {"attention_mask": mask, self._argument: cache}
        if self._takes_positions:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
        output = self._model(input_ids=tokens, use_cache=True, **arguments)
        check_filled(cache, mask.shape[1], self._lm)
        logits: Tensor = output.logits[:, -1]
        return logits.float()

    def _merge(self, joining: Any, joining_mask: Tensor) -> None:
        widths = self._mask.shape[1], joining_mask.shape[1]
        missing = [max(widths) - width for width in widths]
        masks = zip((self._mask, joining_mask), missing, strict=True)
        self._mask = torch.cat([_padded(mask, short) for mask, short in masks])
        for layer, other in zip(self._cache.layers, joining.layers, strict=True):
            pairs = zip(_states(layer), _states(other), strict=True)
            layer.keys, layer.values = (
                torch.cat([_padded(mine, missing[0], dim=2), _padded(new, missing[1], dim=2)])
                for mine, new in pairs
            )

    def _new_cache(self) -> Any:
        return DynamicCache(config=self._lm.config)

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._mask.device)


def _states(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values


def _padded(states: Tensor, columns: int, dim: int = 1) -> Tensor:
    """``states`` with zeros before its first column."""
    if columns == 0:
        return states
    shape = list(states.shape)
    shape[dim] = columns
    return torch.cat([states.new_zeros(shape), states], dim=dim)


def _check_cache(cache: Any) -> None:
    strange = {type(layer).__name__ for layer in cache.layers if type(layer) is not DynamicLayer}
    if strange:
        raise UnsupportedModelError(
            f"streams share one KV cache of full attention; this model keeps {sorted(strange)}"
        )

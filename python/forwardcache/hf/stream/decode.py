"""Rows that decode together over one KV cache, joining and leaving between steps.

Rows are padded on the left, so that every row's next token is the last column; a mask and each
row's own position ids make up for it. For a row that joins, one forward reads its prompt, and its
keys and values are put next to those of the others; a row that leaves takes its own with it, and
columns that are padding for all who stay go too, so memory follows the rows that are there.

The cache keeps the keys and values of every position. Where a model's attention has a window, its
own mask hides what lies beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from forwardcache.hf.batch.kvcache import (
    check_filled,
    named_argument,
    needed_cache_argument,
)

Tokens = Sequence[int]


class Rows(Protocol):
    """Rows of one view that decode. The caller has switched the model to that view."""

    def __len__(self) -> int:
        """Rows that are there."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept for them."""

    def join(self, prompts: Sequence[Tokens]) -> Tensor:
        """Adds rows after those that are there; logits [prompts, vocab] after each prompt."""

    def step(self, tokens: Tokens) -> Tensor:
        """Feeds one token to every row, in order; logits [rows, vocab] after it."""

    def keep(self, rows: Sequence[int]) -> None:
        """Frees all rows but those at ``rows``, which keep their order."""


class DecodingRows:
    """Rows over one cache of keys and values.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.

    Raises:
        UnsupportedModelError: the model takes no cache of keys and values.
    """

    def __init__(self, model: Any, causal_lm: Any) -> None:
        self._model = model
        self._lm = causal_lm
        self._argument = needed_cache_argument(causal_lm)
        self._takes_positions = named_argument(causal_lm, "position_ids") is not None
        self._fixed: dict[str, Any] = {"use_cache": True}
        if named_argument(causal_lm, "logits_to_keep") is not None:
            self._fixed["logits_to_keep"] = 1
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=device_of(causal_lm))
        self._is_padded = False

    def __len__(self) -> int:
        """Rows that are there."""
        return len(self._mask)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that are held."""
        if self._cache is None:
            return 0
        return sum(tensor.nbytes for layer in _filled(self._cache) for tensor in _states(layer))

    def join(self, prompts: Sequence[Tokens]) -> Tensor:
        """Adds rows after those that are there; logits [prompts, vocab] after each prompt."""
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        joining, joining_mask = DynamicCache(), self._tensor(mask)
        is_padded = any(len(prompt) < longest for prompt in prompts)
        logits = self._forward(self._tensor(padded), joining_mask, joining, is_padded)
        if self._cache is None:
            self._cache, self._mask, self._is_padded = joining, joining_mask, is_padded
        else:
            same = self._mask.shape[1] == longest
            self._is_padded = self._is_padded or is_padded or not same
            self._merge(joining, joining_mask)
        return logits

    def step(self, tokens: Tokens) -> Tensor:
        """Feeds one token to every row, in order; logits [rows, vocab] after it."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        column = self._tensor([[token] for token in tokens])
        return self._forward(column, self._mask, self._cache, self._is_padded)

    def keep(self, rows: Sequence[int]) -> None:
        """Frees all rows but those at ``rows``, which keep their order."""
        if not rows:
            self._cache, self._mask, self._is_padded = None, self._mask[:0, :0], False
            return
        index = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[index]
        first = int(mask.any(0).long().argmax())
        self._mask = mask[:, first:]
        self._is_padded = not bool(self._mask.all())
        for layer in _filled(self._cache):
            layer.keys, layer.values = (
                # A copy: a view would keep the memory of the rows that left.
                states[index, :, first:].clone()
                for states in _states(layer)
            )

    def _forward(self, tokens: Tensor, mask: Tensor, cache: Any, is_padded: bool) -> Tensor:
        rows, width = tokens.shape
        arguments: dict[str, Any] = {self._argument: cache}
        if is_padded:
            arguments["attention_mask"] = mask
        if self._takes_positions:
            arguments["position_ids"] = (
                (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
                if is_padded
                else torch.arange(mask.shape[1] - width, mask.shape[1], device=mask.device)
                .unsqueeze(0)
                .expand(rows, width)
            )
        output = self._model(input_ids=tokens, **arguments, **self._fixed)
        check_filled(cache, mask.shape[1], self._lm)
        logits: Tensor = output.logits[:, -1]
        return logits.float()

    def _merge(self, joining: Any, joining_mask: Tensor) -> None:
        widths = self._mask.shape[1], joining_mask.shape[1]
        missing = [max(widths) - width for width in widths]
        masks = zip((self._mask, joining_mask), missing, strict=True)
        self._mask = torch.cat([_padded(mask, short) for mask, short in masks])
        for layer, other in zip(_filled(self._cache), _filled(joining), strict=True):
            pairs = zip(_states(layer), _states(other), strict=True)
            layer.keys, layer.values = (
                torch.cat([_padded(mine, missing[0], dim=2), _padded(new, missing[1], dim=2)])
                for mine, new in pairs
            )

    def _tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._mask.device)


def device_of(causal_lm: Any) -> torch.device:
    """Where the tokens go that the model reads."""
    weight = getattr(causal_lm.get_input_embeddings(), "weight", None)
    return torch.device(causal_lm.device if weight is None else weight.device)


def _filled(cache: Any) -> list[Any]:
    """The layers that hold anything; one of cross-attention without an image stays empty."""
    return [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]


def _states(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values


def _padded(states: Tensor, columns: int, dim: int = 1) -> Tensor:
    """``states`` with zeros before its first column."""
    if columns == 0:
        return states
    shape = list(states.shape)
    shape[dim] = columns
    return torch.cat([states.new_zeros(shape), states], dim=dim)

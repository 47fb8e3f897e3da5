"""Rows behind one prefix: it is computed once, and the rest of all rows in one sequence.

The shared prefix goes through the model alone; its keys, values and last logits are kept. What
follows it, in each row, is packed after it, row by row, with positions that go on from the
prefix and a mask in which a row sees the prefix and itself. So neither the prefix nor its keys and
values are ever held twice, and nothing is padded. A pack stays small, since every token of it is
compared with all others, also with those that the mask then hides.

Only models of full attention can do that, whose mask and positions may be given: see
``can_share_prefixes``. Whether one really does is measured on a short prefix before the first one
that is wanted (``probe``). Texts that are scored as a whole need the logits inside
the prefix as well and are never shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.kernels import TokenKernel, token_logprobs
from forwardcache.hf.batch.kvcache import cache_argument, check_filled, needed_cache_argument
from forwardcache.hf.batch.row import Encoded, Row
from forwardcache.hf.batch.spoilt import values_without_spoilt, without_spoilt


def can_share_prefixes(causal_lm: Any) -> bool:
    """Whether this model may give the same values with a kept prefix: full attention alone.

    Sliding windows, recurrent states, attention kernels that take no mask of ours, and kinds of
    caches that aren't known here can't, nor can models that take no cache.
    """
    config = causal_lm.config.get_text_config()
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    return cache_argument(causal_lm) is not None and is_full_attention(config)


def is_full_attention(config: Any) -> bool:
    """Whether every layer keeps keys and values of all positions, by its configuration."""
    try:
        layers = DynamicCache(config=config).layers
    except Exception:
        # A configuration of another kind of model: nothing is known of its layers.
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class SharedPrefix:
    """The model behind one prefix. Rows given to it begin with that prefix.

    Has the same two methods as ``ForwardRunner``, so an operation runs on either.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
        prefix: The tokens that all rows begin with, at least one; computed at once.

    Raises:
        UnsupportedModelError: the model takes no cache of keys and values, or doesn't use it.
    """

    def __init__(self, model: Callable[..., Any], causal_lm: Any, prefix: Row) -> None:
        self._model = model
        self._lm = causal_lm
        self._argument = needed_cache_argument(causal_lm)
        self._length = len(prefix)
        self._additive = causal_lm.config.get_text_config()._attn_implementation == "eager"
        self._cache = DynamicCache(config=causal_lm.config.get_text_config())
        self._last = self._logits(self._tensor([prefix]), self._cache, [len(prefix) - 1])

    def last_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits after the last token of each row: [rows, vocab]."""
        logits = self.logits_at(rows, [[len(row) - 1] for row in rows])
        return without_spoilt(logits, len(rows), lambda row: self.last_logits([rows[row]]))

    def scored_logprobs(
        self, items: Sequence[Encoded], kernel: TokenKernel = token_logprobs
    ) -> list[Tensor]:
        """What ``kernel`` gives for each item's scored tokens: [scored, ...] each, on the CPU."""
        rows = [item.fed for item in items]
        positions = [list(range(item.first_scored - 1, len(item.fed))) for item in items]
        targets = self._tensor([token for item in items for token in item.scored])
        flat = kernel(self.logits_at(rows, positions), targets)
        values = list(torch.split(flat.cpu(), [len(item.scored) for item in items]))
        return values_without_spoilt(values, lambda at: self.scored_logprobs([items[at]], kernel))

    def logits_at(self, rows: Sequence[Row], positions: Sequence[Sequence[int]]) -> Tensor:
        """Logits after the given positions of each row, flat: [positions, vocab].

        The first of a row's positions may be the prefix's last one, whose logits are kept.
        """
        rests = [row[self._length :] for row in rows]
        wanted: list[int] = []
        order: list[int] = []
        begin = -self._length
        for rest, own in zip(rests, positions, strict=True):
            for position in own:
                # 0 is the prefix's last position, all others count from 1.
                order.append(0 if position < self._length else len(wanted) + 1)
                wanted += [begin + position] if position >= self._length else []
            begin += len(rest)
        if not wanted:
            return self._last[order]
        found = self._packed_logits(rests, wanted)
        return torch.cat([self._last, found])[order]

    def _packed_logits(self, rests: Sequence[Row], wanted: Sequence[int]) -> Tensor:
        packed = self._tensor([[token for rest in rests for token in rest]])
        row_of = self._tensor([row for row, rest in enumerate(rests) for _ in rest])
        steps = self._tensor([step for rest in rests for step in range(len(rest))])
        return self._logits(
            packed,
            _copied(self._cache),
            wanted,
            attention_mask=self._mask(row_of, steps),
            position_ids=(steps + self._length).unsqueeze(0),
        )

    def _mask(self, row_of: Tensor, steps: Tensor) -> Tensor:
        """Who sees whom: [1, 1, packed, prefix + packed]."""
        own = (row_of[:, None] == row_of) & (steps[:, None] >= steps)
        seen = torch.nn.functional.pad(own, (self._length, 0), value=True)[None, None]
        if not self._additive:
            return seen
        dtype = self._lm.get_input_embeddings().weight.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return hidden.masked_fill(~seen, torch.finfo(dtype).min)

    def _logits(
        self, tokens: Tensor, cache: DynamicCache, wanted: Sequence[int], **layout: Tensor
    ) -> Tensor:
        """Logits [wanted, vocab] after the ``wanted`` positions of ``tokens`` [1, n]."""
        positions = self._tensor(wanted)
        due = int(cache.get_seq_length()) + tokens.shape[1]
        given: dict[str, Any] = {self._argument: cache, "logits_to_keep": positions}
        logits: Tensor = self._model(input_ids=tokens, use_cache=True, **given, **layout).logits[0]
        check_filled(cache, due, self._lm)
        if len(logits) == len(wanted):
            return logits
        if len(logits) != tokens.shape[1]:
            raise UnsupportedModelError(
                f"{type(self._lm).__name__} gives no logits of shape [positions, vocab]"
            )
        return logits[positions]

    def _tensor(self, values: Any) -> Tensor:
        device = self._lm.get_input_embeddings().weight.device
        return torch.tensor(values, dtype=torch.long, device=device)


def _copied(cache: DynamicCache) -> DynamicCache:
    """A cache that may grow; the keys and values that are there now are shared, never written."""
    grown = copy.copy(cache)
    grown.layers = [copy.copy(layer) for layer in cache.layers]
    return grown

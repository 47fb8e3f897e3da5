"""Rows behind one prefix: it is computed once, and the rest of all rows in one sequence.

The shared prefix goes through the model alone; its keys, values and last logits are kept. What
follows it, in each row, is packed after it, row by row, with positions that go on from the
prefix and a mask in which a row sees the prefix and itself. So neither the prefix nor its keys and
values are ever held twice, and nothing is padded. A pack stays small, since every token of it is
compared with all others, also with those that the mask then hides.

Only models of full attention can do that, whose mask and positions may be given: see
``can_share_prefixes``. Whether one really does is measured on a short prefix before the first one
that is wanted: ``prefixes_change_nothing``. Texts that are scored as a whole need the logits inside
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
from forwardcache.hf.batch.row import Encoded

# Each held to the single form by a test. Missing are those with positions as biases (alibi) or with
# sliding windows.
_PACKABLE = frozenset(
    [
        "cohere",
        "gemma",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    ]
)

# Of the largest logit. Noise of the arithmetic, in half precision of a few layers; a prefix that
# isn't seen, or at other positions, moves the logits by a multiple.
_NOISE = {torch.float64: 1e-6, torch.float32: 1e-3}
_NOISE_OF_HALF = 5e-2

Row = tuple[int, ...]


def can_share_prefixes(causal_lm: Any) -> bool:
    """Whether this model gives the same values with a kept prefix: full attention, no other state.

    Sliding windows, recurrent states, attention kernels that take no mask of ours, and kinds of
    caches that aren't known here can't, nor can models that take no cache.
    """
    config = causal_lm.config.get_text_config()
    if config.model_type not in _PACKABLE:
        return False
    if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    if cache_argument(causal_lm) is None:
        return False
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def prefixes_change_nothing(model: Callable[..., Any], causal_lm: Any) -> bool:
    """Whether two short rows have the same logits with a kept prefix as without one.

    Three forwards of a few tokens. Whatever goes wrong in them says no: rows are then computed
    whole.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
    """
    size = len(causal_lm.get_input_embeddings().weight)
    prefix, *rests = (tuple(n % size for n in part) for part in ((3, 1, 4, 2), (5, 3), (2, 6)))
    rows = [prefix + rest for rest in rests]
    try:
        behind = SharedPrefix(model, causal_lm, prefix).last_logits(rows)
        whole = torch.tensor(rows, device=behind.device)
        alone = model(input_ids=whole, use_cache=False, logits_to_keep=1).logits[:, -1]
    except Exception:
        return False
    noise = _NOISE.get(alone.dtype, _NOISE_OF_HALF) * float(alone.abs().max())
    return torch.allclose(behind, alone, rtol=0.0, atol=noise)


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
        return self._logits_at(rows, [[len(row) - 1] for row in rows])

    def scored_logprobs(
        self, items: Sequence[Encoded], kernel: TokenKernel = token_logprobs
    ) -> list[Tensor]:
        """What ``kernel`` gives for each item's scored tokens: [scored, ...] each, on the CPU."""
        rows = [item.fed for item in items]
        positions = [list(range(item.first_scored - 1, len(item.fed))) for item in items]
        targets = self._tensor([token for item in items for token in item.scored])
        flat = kernel(self._logits_at(rows, positions), targets)
        return list(torch.split(flat.cpu(), [len(item.scored) for item in items]))

    def _logits_at(self, rows: Sequence[Row], positions: Sequence[Sequence[int]]) -> Tensor:
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

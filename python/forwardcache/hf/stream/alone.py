"""Rows that decode next to each other, each with a cache of its own, whatever its model keeps.

Recurrent states, convolutions, windows that forget, indexers: what a model carries from one token
to the next has as many forms as there are families, and each knows its own. So transformers' own
``generate`` is followed: the model prepares the inputs of each step from what its last output held.
A row of a model that can't do even that is fed whole at each step, which needs no cache at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from forwardcache.hf.batch.kvcache import cache_argument, named_argument
from forwardcache.hf.batch.reach import Switch
from forwardcache.hf.stream.decode import Tokens, device_of

# Names that both an output and an argument may have, without the one being meant for the other.
_NOT_CARRIED = ("logits", "loss", "hidden_states", "attentions", "cross_attentions")


class Row(Protocol):
    """One row that decodes."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept for it."""

    def feed(self, tokens: Tokens) -> Tensor:
        """Feeds tokens; logits [vocab] after the last."""


MakeRow = Callable[[], Row]


class AloneRows:
    """Rows of which each has its own cache.

    Args:
        make_row: Makes an empty row.
    """

    def __init__(self, make_row: MakeRow) -> None:
        self._make_row = make_row
        self._rows: list[Row] = []

    def __len__(self) -> int:
        """Rows that are there."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept for all rows."""
        return sum(row.nbytes for row in self._rows)

    def join(self, prompts: Sequence[Tokens]) -> Tensor:
        """Adds rows after those that are there; logits [prompts, vocab] after each prompt."""
        rows = [self._make_row() for _ in prompts]
        logits = [row.feed(prompt) for row, prompt in zip(rows, prompts, strict=True)]
        self._rows += rows
        return torch.stack(logits)

    def step(self, tokens: Tokens) -> Tensor:
        """Feeds one token to every row, in order; logits [rows, vocab] after it."""
        pairs = zip(self._rows, tokens, strict=True)
        return torch.stack([row.feed([token]) for row, token in pairs])

    def keep(self, rows: Sequence[int]) -> None:
        """Frees all rows but those at ``rows``, which keep their order."""
        self._rows = [self._rows[row] for row in rows]


class LibraryRow:
    """A row that decodes as transformers' ``generate`` does it for its model.

    Args:
        causal_lm: The transformers model itself.
        given: Whether it is given an empty cache at first, or makes its own.
    """

    def __init__(self, causal_lm: Any, *, given: bool) -> None:
        self._lm = causal_lm
        self._ids = torch.zeros(1, 0, dtype=torch.long, device=device_of(causal_lm))
        self._carried: dict[str, Any] = {"use_cache": True}
        if given:
            config = causal_lm.config.get_text_config(decoder=True)
            self._carried[_prepared_name(causal_lm)] = DynamicCache(config=config)
        if named_argument(causal_lm, "logits_to_keep") is not None:
            self._carried["logits_to_keep"] = 1

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are carried on."""
        return held_bytes(self._carried)

    def feed(self, tokens: Tokens) -> Tensor:
        """Feeds tokens; logits [vocab] after the last."""
        is_first = self._ids.shape[1] == 0
        self._ids = torch.cat([self._ids, self._ids.new_tensor([list(tokens)])], dim=1)
        inputs = self._lm.prepare_inputs_for_generation(
            self._ids,
            next_sequence_length=None if is_first else len(tokens),
            is_first_iteration=is_first,
            attention_mask=torch.ones_like(self._ids),
            **self._carried,
        )
        output = self._lm(**inputs)
        self._carried = self._lm._update_model_kwargs_for_generation(output, self._carried)
        logits: Tensor = output.logits[0, -1]
        return logits.float()


class CarryingRow:
    """A row whose model gets back from its own last output whatever it takes by the same name.

    Args:
        causal_lm: The transformers model itself.
    """

    def __init__(self, causal_lm: Any) -> None:
        self._lm = causal_lm
        self._device = device_of(causal_lm)
        self._carried: dict[str, Any] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are carried on."""
        return held_bytes(self._carried)

    def feed(self, tokens: Tokens) -> Tensor:
        """Feeds tokens; logits [vocab] after the last."""
        ids = torch.tensor([list(tokens)], device=self._device)
        output = self._lm(input_ids=ids, use_cache=True, **self._carried)
        self._carried = {
            name: value
            for name, value in output.items()
            if name not in _NOT_CARRIED and named_argument(self._lm, name) is not None
        }
        logits: Tensor = output.logits[0, -1]
        return logits.float()


class WholeRow:
    """A row that is fed whole at each step: exact for every model that sees no future.

    Args:
        causal_lm: The transformers model itself.
        fed: What went before.
        settles: Whether a single token is run first, so that frequencies that another, longer row
            has left in the model are its first ones again.
    """

    nbytes = 0

    def __init__(self, causal_lm: Any, fed: Tokens = (), *, settles: bool = False) -> None:
        self._lm = causal_lm
        self._fed = list(fed)
        self._settles = settles

    def feed(self, tokens: Tokens) -> Tensor:
        """Feeds tokens; logits [vocab] after the last."""
        self._fed += tokens
        if self._settles:
            plain_logits(self._lm, self._fed[:1])
        return plain_logits(self._lm, self._fed, last_only=True)[-1]


class SwitchingRow:
    """A row whose keys are made anew where the frequencies of its model's RoPE change.

    Args:
        causal_lm: The transformers model itself.
        make_row: Makes an empty row of the kind that is used where they don't change.
        switch: Where they change.
    """

    def __init__(self, causal_lm: Any, make_row: MakeRow, switch: Switch) -> None:
        self._lm = causal_lm
        self._make_row = make_row
        self._switch = switch
        self._fed: list[int] = []
        self._row = make_row()

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept for it."""
        return self._row.nbytes

    def feed(self, tokens: Tokens) -> Tensor:
        """Feeds tokens; logits [vocab] after the last."""
        before, self._fed = len(self._fed), [*self._fed, *tokens]
        crosses = before <= self._switch.longest < len(self._fed)
        if not crosses:
            return self._row.feed(tokens)
        self._row = (
            WholeRow(self._lm, settles=True) if self._switch.keeps_changing else self._make_row()
        )
        return self._row.feed(self._fed)


def plain_logits(causal_lm: Any, tokens: Tokens, *, last_only: bool = False) -> Tensor:
    """The model's plain forward of one row, without any cache: logits [tokens or 1, vocab]."""
    asked: dict[str, Any] = {}
    if named_argument(causal_lm, "use_cache") is not None:
        asked["use_cache"] = False
    if last_only and named_argument(causal_lm, "logits_to_keep") is not None:
        asked["logits_to_keep"] = 1
    ids = torch.tensor([list(tokens)], device=device_of(causal_lm))
    logits: Tensor = causal_lm(input_ids=ids, **asked).logits[0]
    return logits.float()


def held_bytes(value: Any, depth: int = 5) -> int:
    """Bytes of the tensors in a value, looked for in containers and in objects of caches."""
    if isinstance(value, Tensor):
        return value.nbytes
    if depth == 0 or value is None or isinstance(value, str | int | float | torch.nn.Module):
        return 0
    parts: list[Any]
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return sum(held_bytes(part, depth - 1) for part in parts)


def _prepared_name(causal_lm: Any) -> str:
    """What the model's preparing of a step's inputs calls the cache."""
    prepare = inspect.signature(causal_lm.prepare_inputs_for_generation).parameters
    found = [name for name in ("cache", "past_key_values") if name in prepare]
    return found[0] if found else cache_argument(causal_lm) or "cache"

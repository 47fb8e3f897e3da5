"""What an operation runs on in place of the model: its head, on hidden states that were kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.kernels import TokenKernel, token_logprobs
from forwardcache.hf.batch.row import Encoded, Row
from forwardcache.hf.batch.states import tensor_of
from forwardcache.scoring import HiddenStates


class HeadRunner:
    """A model's head, with the two methods of ``ForwardRunner`` that operations run on.

    The caller holds the model's lock and has switched the view.

    Args:
        runner: Runs the model's forward.
        kind: The type of the body's output.
        states: By the tokens that the model reads for an item: their states, and maybe one more.

    Attributes:
        most_rows: Most positions whose logits are there at once.
    """

    def __init__(
        self, runner: ForwardRunner, kind: type[Any], states: Mapping[Row, HiddenStates]
    ) -> None:
        self._device = runner._device
        self._head: Callable[[Tensor], Tensor] = partial(runner.head_logits, kind)
        self._states = states
        self.most_rows = runner.most_logit_rows

    def last_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits after the last token of each row: [rows, vocab]."""
        return self._head(torch.cat([self._span(row, len(row) - 1) for row in rows]))

    def scored_logprobs(
        self, items: Sequence[Encoded], kernel: TokenKernel = token_logprobs
    ) -> list[Tensor]:
        """What ``kernel`` gives for each item's scored tokens: [scored, ...] each, on the CPU."""
        states = torch.cat([self._span(item.fed, item.first_scored - 1) for item in items])
        targets = torch.tensor([token for item in items for token in item.scored])
        chunks = zip(
            torch.split(states, self.most_rows),
            torch.split(targets.to(self._device), self.most_rows),
            strict=True,
        )
        flat = torch.cat([kernel(self._head(chunk), aims) for chunk, aims in chunks])
        return list(torch.split(flat.cpu(), [len(item.scored) for item in items]))

    def _span(self, row: Row, begin: int) -> Tensor:
        return tensor_of(self._states[row], begin, len(row), self._device)

"""The heads of several views, run on the hidden states that their bodies gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.scoring.rerun import Run


class Heads:
    """Runs the heads of views.

    Args:
        runner: Runs the model's forward.
        output: The type of the body's output.
        entered: Switches the model to a view.
        are_apart: Whether views have heads of their own, so that the model is switched for each;
            else it is in some view already.
    """

    def __init__(
        self,
        runner: ForwardRunner,
        output: type[Any],
        entered: Callable[[Run], AbstractContextManager[None]],
        *,
        are_apart: bool,
    ) -> None:
        self._runner = runner
        self._output = output
        self._entered = entered
        self.are_apart = are_apart

    def logits(self, states: Mapping[Run, Tensor]) -> Iterator[tuple[Run, Tensor]]:
        """For each view its logits [n, vocab] of its states [n, width].

        Args:
            states: By view; the first is what the others are held against.
        """
        if self.are_apart or len(states) == 1:
            for spec, own in states.items():
                yield spec, self._apart(spec, own)
            return
        first, *_ = states.values()
        # One call for all: a product of few rows mostly reads the head's weights.
        logits = self._head(torch.cat(list(states.values())))
        parts = torch.split(logits, len(first))
        for (spec, own), part in zip(states.items(), parts, strict=True):
            # A row's rounding may depend on where it stands, and equal states have equal logits.
            same = (own == first).all(-1)
            if own is not first and bool(same.any()):
                part[same] = parts[0][same]
            yield spec, part

    def _apart(self, spec: Run, states: Tensor) -> Tensor:
        if not self.are_apart:
            return self._head(states)
        with self._entered(spec):
            return self._head(states)

    def _head(self, states: Tensor) -> Tensor:
        return self._runner.head_logits(self._output, states)

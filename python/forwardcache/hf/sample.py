"""The next token of a row, from its logits alone: the same whatever rows decode beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forwardcache.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: The most likely tokens that together reach this mass are drawn from.
        seed: Seed of the row's own generator.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SamplingOptions:
        """From a request's ``sampling_options``; what is missing or None has its default.

        Raises:
            InvalidInputError: a value is out of range.
        """
        given = {name: options.get(name) for name in ("temperature", "top_p", "seed")}
        chosen = cls(**{name: value for name, value in given.items() if value is not None})
        if not (math.isfinite(chosen.temperature) and chosen.temperature >= 0.0):
            raise InvalidInputError(
                f"temperature must be finite and not negative, got {chosen.temperature}"
            )
        if not 0.0 < chosen.top_p <= 1.0:
            raise InvalidInputError(f"top_p must be above 0 and at most 1, got {chosen.top_p}")
        return chosen


class Sampler:
    """Draws a row's tokens, with a generator of its own."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._generator = torch.Generator().manual_seed(options.seed)

    def draw(self, logits: Tensor) -> int:
        """A token from float32 logits [vocab]."""
        if self._options.temperature == 0.0:
            return int(logits.argmax())
        probabilities = (logits.cpu() / self._options.temperature).softmax(-1)
        nucleus = _nucleus(probabilities, self._options.top_p)
        return int(torch.multinomial(nucleus, 1, generator=self._generator))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """``probabilities`` without the least likely tokens beyond the mass ``top_p``."""
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(descending=True, stable=True)
    mass_before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter(-1, order, ordered * (mass_before < top_p))

"""The next token of a row, from its logits alone: the same whatever rows are batched with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from forwardcache.errors import InvalidInputError, NonFiniteError


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: The most likely tokens that together reach this mass are drawn from.
        seed: Seed of the row's own generator.
        top_k: As many of the most likely tokens are drawn from, and those equal to the last of
            them; 0 for all.
        min_p: Tokens are drawn from that are at least this share as likely as the most likely one.
        repetition_penalty: A positive logit of a token that is in prompt or completion is divided
            by it, a negative one multiplied.
        presence_penalty: Taken from the logits of tokens in the completion.
        frequency_penalty: Taken from them as many times as they are there.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SamplingOptions:
        """From a request's ``sampling_options``; what is missing or None has its default.

        Raises:
            InvalidInputError: a value is out of range.
        """
        given = {each.name: options.get(each.name) for each in fields(cls)}
        chosen = cls(**{name: value for name, value in given.items() if value is not None})
        if not (math.isfinite(chosen.temperature) and chosen.temperature >= 0.0):
            raise InvalidInputError(
                f"temperature must be finite and not negative, got {chosen.temperature}"
            )
        if not 0.0 < chosen.top_p <= 1.0:
            raise InvalidInputError(f"top_p must be above 0 and at most 1, got {chosen.top_p}")
        if not 0.0 <= chosen.min_p <= 1.0:
            raise InvalidInputError(f"min_p must be 0 to 1, got {chosen.min_p}")
        if not chosen.repetition_penalty > 0.0:
            raise InvalidInputError(
                f"repetition_penalty must be above 0, got {chosen.repetition_penalty}"
            )
        return chosen

    @property
    def penalizes(self) -> bool:
        """Whether what a row holds so far changes its logits."""
        penalties = self.repetition_penalty, self.presence_penalty, self.frequency_penalty
        return penalties != (1.0, 0.0, 0.0)


class Sampler:
    """Draws a row's tokens, with a generator of its own.

    Args:
        options: How.
        prompt: The row's tokens before the first drawn one.
        late: Tokens that are not drawn before ``least`` others.
        least: How many those are.
    """

    def __init__(
        self,
        options: SamplingOptions,
        prompt: Sequence[int] = (),
        *,
        late: Collection[int] = (),
        least: int = 0,
    ) -> None:
        self._options = options
        self._prompt = list(prompt) if options.penalizes else []
        self._drawn: list[int] = []
        self._late, self._least = list(late), least
        self._generator = torch.Generator().manual_seed(options.seed)

    def draw(self, logits: Tensor) -> int:
        """A token from float32 logits [vocab].

        Raises:
            NonFiniteError: the largest of them is no number that others can be compared with.
        """
        if self._options.penalizes:
            logits = self._penalized(logits)
        if self._late and len(self._drawn) < self._least:
            late = [token for token in self._late if 0 <= token < len(logits)]
            logits = logits.index_fill(-1, _ids(late, logits), -torch.inf)
        token = self._choose(logits)
        self._drawn.append(token)
        return token

    def _choose(self, logits: Tensor) -> int:
        options = self._options
        best, token = logits.max(-1)
        # A NaN counts as the largest.
        if not math.isfinite(highest := float(best)):
            raise NonFiniteError(f"the largest logit is {highest}: no token can be drawn from that")
        if options.temperature == 0.0:
            return int(token)
        # The best has 0 at any temperature, and what lies far below it nothing but no mass.
        logits = ((logits.cpu().double() - highest) / options.temperature).float()
        if 0 < options.top_k < len(logits):
            logits = logits.where(logits >= logits.topk(options.top_k).values[-1], -torch.inf)
        likely = _nucleus(logits.softmax(-1), options.top_p)
        if options.min_p > 0.0:
            likely = likely.where(likely >= options.min_p * likely.max(), 0.0)
        return int(torch.multinomial(likely, 1, generator=self._generator))

    def _penalized(self, logits: Tensor) -> Tensor:
        options = self._options
        held = _ids(sorted({*self._prompt, *self._drawn}), logits)
        held = held[held < len(logits)]
        factor = options.repetition_penalty
        chosen = logits[held]
        logits = logits.clone()
        logits[held] = torch.where(chosen > 0, chosen / factor, chosen * factor)
        counts = torch.bincount(_ids(self._drawn, logits), minlength=len(logits))
        return (
            logits
            - counts * options.frequency_penalty
            - (counts > 0).float() * options.presence_penalty
        )


def _ids(token_ids: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(token_ids, dtype=torch.int64, device=like.device)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """``probabilities`` without the least likely tokens beyond the mass ``top_p``."""
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(descending=True, stable=True)
    mass_before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities).scatter(-1, order, ordered * (mass_before < top_p))

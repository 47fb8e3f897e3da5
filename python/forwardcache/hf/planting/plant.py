"""Makes an adapter with PEFT that changes what a model says by as much as is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.planting.exact import Exact, Factors, Text, Values
from forwardcache.hf.planting.recipes import Recipe

__all__ = ["Plant", "distance", "plant"]

_STEPS = 12
_ENOUGH, _TOO_MUCH, _LEAST = 0.95, 1.4, 0.7


@dataclass(frozen=True, eq=False)
class Plant:
    """An adapter that lies in a folder, and what it does.

    Attributes:
        recipe: How it was made.
        folder: Where it lies, as PEFT's ``save_pretrained`` writes it.
        effect: Root mean square by which it changes a token's log-probability, nats.
        amplified: By how much larger rounding to 16 bits is with the adapter than without.
    """

    recipe: Recipe
    folder: str
    effect: float
    amplified: float

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def words(self) -> str:
        """What it is, in words."""
        kinds = ", ".join(dict.fromkeys(place.kind for place in self.recipe.places))
        layers = sorted({p.layer for p in self.recipe.places if p.layer is not None})
        where = f" of layer {layers[0]}" if len(layers) == 1 else ""
        return f"{self.name}: LoRA on {kinds}{where}, {self.effect:.3g} nats from base"


def distance(one: Sequence[Values], other: Sequence[Values]) -> float:
    """Root mean square of the differences in log-probability over all tokens, nats."""
    pairs = zip(one, other, strict=True)
    gaps = np.concatenate([left.logprobs - right.logprobs for left, right in pairs])
    return float(np.sqrt(np.mean(gaps**2)))


def plant(exact: Exact, recipe: Recipe, folder: Path, *, effect: float, texts: list[Text]) -> Plant:
    """Make an adapter and save it.

    Args:
        exact: The model.
        recipe: Which adapter.
        folder: Where it is saved.
        effect: Root mean square by which it has to change a token's log-probability, nats.
        texts: By which this is measured.

    Raises:
        UnsupportedModelError: no strength of it changes the model by so much.
    """
    _add(exact, recipe, str(folder))
    base = exact.values(texts)
    strength, low, high = 1.0, 0.0, 0.0
    for _ in range(_STEPS):
        found = exact.values(texts, str(folder), Factors(all=strength), keep=False)
        changed = distance(found, base)
        if _ENOUGH * effect <= changed <= _TOO_MUCH * effect:
            break
        if changed < effect:
            low = strength
            strength = (low * high) ** 0.5 if high else low * 8
        else:
            high = strength
            strength = (low * high) ** 0.5 if low else high / 8
    for tensor_name, tensor in exact.tensors(str(folder)):
        if not _is_first(tensor_name):
            tensor.mul_(strength)
    exact.save(str(folder))
    return _measured(exact, recipe, str(folder), texts, at_least=_LEAST * effect)


def _add(exact: Exact, recipe: Recipe, folder: str) -> None:
    found = exact.add(folder, LoraConfig(task_type="CAUSAL_LM", **recipe.options))
    if odd := found.keys() ^ {place.name for place in recipe.places}:
        raise UnsupportedModelError(f"an adapter for {recipe.name} can't be put on {min(odd)}")
    dice = torch.Generator().manual_seed(recipe.seed)
    # Beside large products biases would not be seen.
    least = 0.02 if recipe.options.get("lora_bias") else 0.1
    for name, tensor in exact.tensors(folder):
        drawn = torch.randn(tensor.shape, generator=dice)
        if _is_first(name):
            drawn /= tensor.shape[-1] ** 0.5
        else:
            drawn *= 0.1 if name.endswith(".bias") else least
        tensor.copy_(drawn)


def _is_first(name: str) -> bool:
    """Whether a tensor is the one that meets the input: the other carries the strength."""
    return ".lora_A" in name or ".lora_embedding_A" in name


def _measured(
    exact: Exact, recipe: Recipe, folder: str, texts: Sequence[Text], *, at_least: float
) -> Plant:
    base, adapted = exact.values(texts), exact.values(texts, folder)
    effect = distance(adapted, base)
    if not effect >= at_least:
        raise UnsupportedModelError(
            f"an adapter on {recipe.name} changes a token's log-probability by {effect:.3g} nats "
            f"at most, and {at_least:.3g} are needed"
        )
    of_base = distance(exact.values(texts, rounded=True), base)
    of_adapted = distance(exact.values(texts, folder, rounded=True), adapted)
    return Plant(recipe, folder, effect, max(1.0, of_adapted / of_base) if of_base else 1.0)

"""Which adapters are made for a model: each shows one way in which an engine can lose a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forwardcache.hf.planting.places import EMBEDDING, HEAD, Place, targets_of

__all__ = ["KINDS", "PATTERNS", "Recipe", "recipes"]

KINDS = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", EMBEDDING, HEAD)
"""Kinds of modules that get an adapter of their own."""

PATTERNS = ("rank_pattern", "alpha_pattern", "rslora", "lora_bias")
"""Adapters on all linear modules that use one more setting of PEFT's."""

RANK, ALPHA = 8, 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is made.

    Attributes:
        name: What it is called.
        places: The modules that it is on.
        options: Of PEFT's ``LoraConfig``.
        parts: Names of modules by part: a kind, a layer, what a pattern is about.
        sole: The part that it consists of, if it is one.
        seed: Of its weights.
    """

    name: str
    places: tuple[Place, ...]
    options: Mapping[str, Any]
    parts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sole: str | None = None
    seed: int = 0


def recipes(places: tuple[Place, ...]) -> dict[str, Recipe]:
    """The adapters for a model, by name; those that it has no modules for are left out.

    Args:
        places: The modules of the model.
    """
    linear = tuple(each for each in places if each.layer is not None)
    kinds = tuple(dict.fromkeys(each.kind for each in linear))
    layers = sorted({each.layer for each in linear if each.layer is not None})
    some = kinds[::2]
    found = [
        _on("all_linear", places, kinds),
        _on("other", places, kinds),
        _on("new", places, kinds),
    ]
    found += [_on(each, places, (each,)) for each in KINDS if any(p.kind == each for p in places)]
    if layers:
        found += [
            _on("first_layer", places, kinds, layer=layers[0]),
            _on("last_layer", places, kinds, layer=layers[-1]),
        ]
    names = targets_of(places, some)
    found += [
        _on("rank_pattern", places, kinds, some, rank_pattern=dict.fromkeys(names, 2 * RANK)),
        _on("alpha_pattern", places, kinds, some, alpha_pattern=dict.fromkeys(names, 4 * ALPHA)),
        _on("rslora", places, kinds, use_rslora=True),
        _on("lora_bias", places, kinds, lora_bias=True),
    ]
    return {
        each.name: Recipe(each.name, each.places, each.options, each.parts, each.sole, seed)
        for seed, each in enumerate(found)
        if each.places
    }


def _on(
    name: str,
    places: tuple[Place, ...],
    kinds: tuple[str, ...],
    pattern: tuple[str, ...] = (),
    *,
    layer: int | None = None,
    **options: Any,
) -> Recipe:
    chosen = tuple(p for p in places if p.kind in kinds and layer in (None, p.layer))
    asked: dict[str, Any] = {"r": RANK, "lora_alpha": ALPHA, **options}
    asked["target_modules"] = targets_of(places, kinds)
    if layer is not None:
        asked["layers_to_transform"] = [layer]
    sole = kinds[0] if len(kinds) == 1 else None if layer is None else f"layer {layer}"
    return Recipe(name, chosen, asked, _parts(name, chosen, pattern), sole)


def _parts(
    name: str, places: tuple[Place, ...], pattern: tuple[str, ...]
) -> dict[str, frozenset[str]]:
    words = {f"layer {p.layer}" for p in places if p.layer is not None} | {p.kind for p in places}
    parts = {
        word: frozenset(p.name for p in places if word in (p.kind, f"layer {p.layer}"))
        for word in sorted(words)
    }
    if pattern:
        parts[name] = frozenset(p.name for p in places if p.kind in pattern)
    whole = frozenset(p.name for p in places)
    return {part: names for part, names in parts.items() if names != whole}

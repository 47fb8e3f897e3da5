"""Which modules of a model an adapter can be on, by what they do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

__all__ = ["EMBEDDING", "HEAD", "Place", "places_of", "targets_of"]

EMBEDDING, HEAD = "embedding", "head"

_BY_NAME = {
    "q": ("q_proj", "query", "wq", "q_lin"),
    "k": ("k_proj", "key", "wk", "k_lin"),
    "v": ("v_proj", "value", "wv", "v_lin"),
    "qkv": ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv"),
    "o": ("o_proj", "out_proj", "wo", "out_lin"),
    "gate": ("gate_proj", "w1"),
    "gate_up": ("gate_up_proj",),
    "up": ("up_proj", "w3", "c_fc", "fc_in", "fc1", "dense_h_to_4h"),
    "down": ("down_proj", "w2", "fc_out", "fc2", "dense_4h_to_h"),
}
_KIND_OF = {name: kind for kind, names in _BY_NAME.items() for name in names}

_WITHIN = {"c_proj": ("o", "down"), "dense": ("o", "down")}
"""Names that mean one thing in attention and another in the MLP."""

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Place:
    """A module that an adapter can be on.

    Attributes:
        name: Its dotted name in the model.
        kind: What it does: ``q``, ``down``, ...; ``embedding``, ``head``.
        layer: Of which layer it is, from 0 on; None for embedding and head.
    """

    name: str
    kind: str
    layer: int | None


def places_of(model: Any) -> tuple[Place, ...]:
    """The modules of ``model`` that are told by name and structure, in the model's order.

    Args:
        model: A causal model of transformers, without an adapter.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    found = []
    for name, module in model.named_modules():
        if module is embedding:
            found.append(Place(name, EMBEDDING, None))
        elif module is head:
            found.append(Place(name, HEAD, None))
        elif isinstance(module, torch.nn.Linear | Conv1D):
            found += _in_layer(name)
    return tuple(found)


def _in_layer(name: str) -> list[Place]:
    layer = _LAYER.search(f".{name}")
    *above, leaf = name.split(".")
    kind = _KIND_OF.get(leaf)
    if leaf in _WITHIN:
        in_attention = any("attn" in each.lower() or "attention" in each.lower() for each in above)
        kind = _WITHIN[leaf][0 if in_attention else 1]
    return [Place(name, kind, int(layer[1]))] if kind and layer else []


def targets_of(places: tuple[Place, ...], kinds: tuple[str, ...]) -> list[str]:
    """Names by which PEFT finds the modules of ``kinds`` and no others.

    Args:
        places: All of the model.
        kinds: Which of them.
    """
    targets = {_target(place, places) for place in places if place.kind in kinds}
    return sorted(targets)


def _target(place: Place, places: tuple[Place, ...]) -> str:
    parts = place.name.split(".")
    leaf = parts[-1]
    kinds = {each.kind for each in places if each.name.split(".")[-1] == leaf}
    return leaf if len(kinds) == 1 else ".".join(parts[-2:])

"""What is tried: every causal type of the installed transformers, and what is like it.

A case is known by its name, so that a process of its own can make it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tools.matrix.shrink import shrunk
from tools.matrix.special import IMAGES, SPECIAL, VARIANTS, WEIGHTS

Group = Literal["type", "setting", "images"]


@dataclass(frozen=True)
class Case:
    """A tiny model.

    Attributes:
        name: What it is called in the tables.
        group: A type of the mapping, a type with other settings, or a model of images and text.
        model_type: Its type.
        special: Settings that the rules for small models don't give.
    """

    name: str
    group: Group
    model_type: str
    special: Mapping[str, Any] = field(default_factory=dict)


def cases() -> dict[str, Case]:
    """All, by name."""
    types = [
        Case(each, "type", each, SPECIAL.get(each, {}))
        for each in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    ]
    settings = [
        Case(f"{each} {words}", "setting", each, {**SPECIAL.get(each, {}), **special})
        for (each, words), special in VARIANTS.items()
    ]
    images = [Case(each, "images", each, special) for each, special in IMAGES.items()]
    return {case.name: case for case in [*types, *settings, *images]}


def made(case: Case) -> Any:
    """The model of a case, random but the same every time, in evaluation mode."""
    torch.manual_seed(0)
    config = shrunk(case.model_type, case.special)
    make: Callable[[Any], Any]
    if case.group == "images":
        make = AutoModelForImageTextToText.from_config
    elif hasattr(config, "decoder") and hasattr(config, "audio_encoder"):
        # The class of such a type reads the part that the mapping's configuration has as decoder.
        make, config = _class_of(config), config.decoder
    else:
        make = AutoModelForCausalLM.from_config
    return strengthened(make(config), WEIGHTS.get(case.model_type, 8.0)).eval()


def _class_of(config: Any) -> Any:
    return AutoModelForCausalLM._model_mapping[type(config)]


def strengthened(model: Any, factor: float) -> Any:
    """The model with larger weights: fresh ones give nearly uniform logits, which hide errors."""
    with torch.no_grad():
        for parameter in model.parameters():
            # Those that are larger than what a model usually begins with have a meaning.
            if parameter.ndim >= 2 and parameter.is_floating_point() and parameter.std() < 0.06:
                parameter.mul_(factor)
    return model

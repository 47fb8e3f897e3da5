"""How much a view adds to the base model's weights: the Frobenius norm of all of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from forwardcache.hf.model.adapter import traits_of
from forwardcache.hf.model.adapter_parts import lora_layers
from forwardcache.hf.model.switch import switched
from forwardcache.hf.spec import ViewSpec

_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


def update_norm(model: nn.Module, spec: ViewSpec) -> float | None:
    """The Frobenius norm of what ``spec`` adds to the weights of ``model``, all modules together.

    The caller holds the model's lock. The product of A and B is never made: of rank r, its norm
    needs two matrices of r by r.

    Returns:
        The norm, computed in float64; None where the view changes more than A and B say (DoRA,
        whole modules, tokens, parameters of experts).
    """
    spec = spec.canonical()
    if spec.kind == "base":
        return 0.0
    traits = traits_of(model)
    if traits.beyond_lambda or traits.base_changed or traits.beyond_noise:
        return None
    with switched(model, spec), torch.no_grad():
        squares = [_square(layer) for layer in lora_layers(model)]
    known = [square for square in squares if square is not None]
    return math.sqrt(sum(known)) if len(known) == len(squares) else None


def _square(layer: Any) -> float | None:
    """The squared norm of what one layer adds; several active adapters add up."""
    if type(layer).__name__ == "ParamWrapper":  # a product for each expert, in one parameter
        return None
    downs, ups = [], []
    for left, right in _PAIRS:
        for name in layer.active_adapters:
            if name in getattr(layer, left):
                downs.append(_matrix(getattr(layer, left)[name]))
                ups.append(_matrix(getattr(layer, right)[name]) * layer.scaling[name])
    if any(down.shape[0] != up.shape[1] for down, up in zip(downs, ups, strict=True)):
        return None  # a convolution in groups
    if not downs:
        return 0.0
    down, up = torch.cat(downs), torch.cat(ups, dim=1)
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def _matrix(part: Any) -> Tensor:
    weight: Any = part.weight if isinstance(part, nn.Module) else part
    matrix: Tensor = weight.detach().to("cpu", torch.float64).flatten(1)
    return matrix

"""How much a view adds to the base model's weights: the Frobenius norm of all of it."""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import nn

from forwardcache.hf.model.adapter import traits_of
from forwardcache.hf.model.products import Product, norms_of, products_of
from forwardcache.hf.model.switch import switched
from forwardcache.hf.spec import ViewSpec


def update_norm(model: nn.Module, spec: ViewSpec) -> float | None:
    """The Frobenius norm of what ``spec`` adds to the weights of ``model``, all modules together.

    The caller holds the model's lock. The product of A and B is never made: of rank r, its norm
    needs two matrices of r by r.

    Returns:
        The norm, computed in float64; None where the view changes more than A and B say (DoRA,
        whole modules, tokens).
    """
    spec = spec.canonical()
    if spec.kind == "base":
        return 0.0
    traits = traits_of(model)
    if traits.beyond_lambda or traits.base_changed or traits.beyond_noise:
        return None
    with switched(model, spec), torch.no_grad():
        by_layer = groupby(products_of(model), key=lambda product: product.name)
        squares = [_square(list(products)) for _, products in by_layer]
    known = [square for square in squares if square is not None]
    return math.sqrt(sum(known)) if len(known) == len(squares) else None


def _square(products: list[Product]) -> float | None:
    """The squared norm of what one layer adds; several active adapters add up."""
    downs = [each.downs(each.read(each.down.detach())) for each in products]
    ups = [each.ups(each.read(each.up.detach())) * each.scaling for each in products]
    if any(down.shape[1] != up.shape[2] for down, up in zip(downs, ups, strict=True)):
        return None  # a convolution in groups
    return float(norms_of(torch.cat(downs, dim=1), torch.cat(ups, dim=2)).square().sum())

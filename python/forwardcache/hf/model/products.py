"""Where an adapter is nothing but scaling · B · A: the two factors of each layer, and their norm.

Of rank r, the product's Frobenius norm needs two matrices of r by r, tr(BᵀB · AAᵀ), so that the
product itself, as large as the base model's weight, is never made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forwardcache.hf.model.adapter_parts import lora_layers
from forwardcache.hf.model.peft_kinds import (
    LoraConvolution,
    LoraEmbedding,
    LoraLayer,
    LoraLinear,
    ParamWrapper,
)

# Other layers of PEFT may do more with A and B than multiply; these don't, without a variant.
_PLAIN = (LoraLinear, LoraEmbedding, LoraConvolution, ParamWrapper)
_QUANTISED = {
    *("Linear8bitLt", "Linear4bit", "EetqLoraLinear", "HqqLoraLinear", "AqlmLoraLinear"),
    *("AwqLoraLinear", "GPTQLoraLinear"),
}


@dataclass(frozen=True, slots=True)
class Product:
    """What one adapter adds in one layer: scaling · B · A, for each expert where there are several.

    Attributes:
        name: The layer's, in the model.
        down: A.
        up: B.
        scaling: The layer's own factor.
        experts: How many products lie side by side in A and B.
        by_column: Whether each column of A is a token's, so that its norm is kept a column.
        read_as: The dtype in which a forward reads A and B, if it isn't theirs.
    """

    name: str
    down: nn.Parameter
    up: nn.Parameter
    scaling: float
    experts: int = 1
    by_column: bool = False
    read_as: torch.dtype | None = None

    def downs(self, down: Tensor) -> Tensor:
        """A as a view of shape [experts, rank, in]."""
        return down.reshape(self.experts, -1, *down.shape[1:]).flatten(2)

    def ups(self, up: Tensor) -> Tensor:
        """B as a view of shape [experts, out, rank]; the expert is the fastest index of a row."""
        return up.flatten(1).reshape(len(up), -1, self.experts).permute(2, 0, 1)

    def norms(self, down: Tensor, up: Tensor) -> Tensor:
        """The norms of scaling · B · A: float64[experts, 1, 1], or float64[1, 1, tokens].

        Args:
            down: In A's place, of its shape.
            up: In B's place, of its shape.
        """
        return self.norms_of(self.downs(down), self.ups(up))

    def norms_of(self, downs: Tensor, ups: Tensor) -> Tensor:
        """As ``norms``, of matrices as ``downs`` and ``ups`` give them."""
        norms = norms_of(self.read(downs), self.read(ups), by_column=self.by_column)
        return abs(self.scaling) * norms

    def trained(self) -> Tensor:
        """The norms of what A and B hold now; see ``norms``."""
        return self.norms(self.down.detach(), self.up.detach())

    def read(self, factor: Tensor) -> Tensor:
        """A or B as a forward reads it, in float64 on the CPU."""
        seen = factor if self.read_as is None else factor.to(self.read_as)
        return seen.to("cpu", torch.float64)


def norms_of(downs: Tensor, ups: Tensor, *, by_column: bool = False) -> Tensor:
    """Norms of the products ups · downs, without making them.

    Args:
        downs: float64[experts, rank, in].
        ups: float64[experts, out, rank].
        by_column: Whether each column of the product has its own.

    Returns:
        float64[experts, 1, 1], or float64[experts, 1, in].
    """
    gram = ups.transpose(1, 2) @ ups
    if by_column:
        squares = (downs * (gram @ downs)).sum(1, keepdim=True)
    else:
        squares = (gram * (downs @ downs.transpose(1, 2))).sum((1, 2), keepdim=True)
    return squares.clamp(min=0.0).sqrt()


def products_of(model: nn.Module) -> list[Product]:
    """The products of the active adapters in layers of which ``why_no_product`` says nothing."""
    return [
        _product(name, layer, adapter)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        for adapter in held_by(layer)
    ]


def held_by(layer: Any) -> list[str]:
    """The active adapters that have an A and a B in this layer."""
    names = layer.active_adapters
    return [name for name in names if name in layer.lora_A or name in layer.lora_embedding_A]


def why_no_product(model: nn.Module) -> Iterator[str]:
    """Why what the active adapters add isn't known to be one scaling · B · A a layer."""
    layers: list[Any] = [layer for layer in lora_layers(model) if held_by(layer)]
    active = sorted({name for layer in layers for name in held_by(layer)})
    if len(active) > 1:
        yield f"{len(active)} adapters are active at once ({', '.join(active)})"
    for layer in layers:
        if not _is_plain(layer):
            yield f"{type(layer).__name__} isn't known to add B times A"
        elif any(layer.lora_bias.get(name) for name in held_by(layer)):
            yield "lora_bias adds a trained bias to B times A"
        elif isinstance(layer, LoraConvolution) and _groups(layer) > 1:
            yield "in a convolution in groups what is added isn't B times A"


def _groups(convolution: Any) -> int:
    groups: int = convolution.get_base_layer().groups
    return groups


def _is_plain(layer: Any) -> bool:
    kind = type(layer)
    # A class of a user's own may add anything, whatever it derives from.
    is_own = kind.__module__.partition(".")[0] != "peft"
    return not is_own and (isinstance(layer, _PLAIN) or kind.__name__ in _QUANTISED)


def _product(name: str, layer: Any, adapter: str) -> Product:
    scaling = float(layer.scaling[adapter])
    if adapter in layer.lora_embedding_A:
        pair = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        return Product(name, *pair, scaling, by_column=True)
    pair = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    if not isinstance(layer, ParamWrapper):
        return Product(name, *pair, scaling)
    wrapper: Any = layer
    # The layer brings its factors, or their product, to the dtype of the experts.
    dtype = wrapper.get_param().dtype
    read_as = dtype if dtype in (torch.float16, torch.bfloat16) else None
    whole = f"{name}.{layer.parameter_name}"
    return Product(whole, *pair, scaling, experts=layer.num_experts, read_as=read_as)


__all__ = ["Product", "held_by", "norms_of", "products_of", "why_no_product"]

"""Puts a model into a view and back, bit for bit.

Only fields that PEFT's layers read in ``forward`` are set, directly: ``disable_adapter`` would turn
gradients on when it ends, ``scale_layer`` accumulates rounding, and merging in place leaves the
weights 2.9e-6 off. Noise is put in place by pointing a parameter at other memory, so that its own
memory, and its version counter, are never touched. Whatever was there is put back as the very
object it was.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from forwardcache.hf.model.adapter_parts import (
    lora_layers,
    noise_parameters,
    switched_modules,
)
from forwardcache.hf.spec import ViewSpec

_ABSENT = object()
_FLAG = "_disable_adapters"

NOISE_MAX_BYTES = 256 * 2**20


@contextmanager
def switched(model: nn.Module, spec: ViewSpec) -> Iterator[None]:
    """Runs its body with ``model`` in the view ``spec``, in evaluation mode.

    The caller holds the model's lock. Restores everything, also after an exception.
    """
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(_giving_logits_alone(model))
        stack.enter_context(_adapters_disabled(model, spec.kind == "base"))
        if spec.kind == "scaled":
            stack.enter_context(_scaled(model, spec.lam))
        if spec.kind == "null":
            stack.enter_context(_noise(model, spec))
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Module by module: a model in evaluation mode may hold a part that trains, and the reverse.
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


_PLAIN_OUTPUTS = {
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_router_logits": False,
}
"""What a configuration says of a forward that gives logits, by name, and nothing beside them: what
training asks for as well may fail on rows that are packed or behind a prefix."""


@contextmanager
def _giving_logits_alone(model: nn.Module) -> Iterator[None]:
    """Outputs have names, and nothing is computed that isn't read, whatever is configured.

    Asking in the call isn't enough: transformers reads those of a model's body too, and there the
    configuration decides.
    """
    own = getattr(model, "config", None)
    configs: list[Any] = [own, *getattr(own, "__dict__", {}).values()]
    saved = [
        (config, name, getattr(config, name))
        for config in configs
        for name, plain in _PLAIN_OUTPUTS.items()
        if getattr(config, name, None) is (not plain)
    ]
    try:
        for config, name, asked in saved:
            setattr(config, name, not asked)
        yield
    finally:
        for config, name, asked in saved:
            setattr(config, name, asked)


@contextmanager
def _adapters_disabled(model: nn.Module, disabled: bool) -> Iterator[None]:
    saved = [(module, vars(module).get(_FLAG, _ABSENT)) for module in switched_modules(model)]
    try:
        for module, _ in saved:
            setattr(module, _FLAG, disabled)
        yield
    finally:
        for module, flag in saved:
            if flag is _ABSENT:
                delattr(module, _FLAG)
            else:
                setattr(module, _FLAG, flag)


@contextmanager
def _scaled(model: nn.Module, lam: float) -> Iterator[None]:
    saved = [(layer, dict(layer.scaling)) for layer in lora_layers(model)]
    try:
        for layer, scaling in saved:
            for name in layer.active_adapters:
                if name in scaling:
                    layer.scaling[name] = scaling[name] * lam
        yield
    finally:
        for layer, scaling in saved:
            layer.scaling.update(scaling)


@contextmanager
def _noise(model: nn.Module, spec: ViewSpec) -> Iterator[None]:
    saved = [(parameter, parameter.data) for parameter in noise_parameters(model)]
    drawn = _noises.setdefault(model, NoiseStore()).get(spec, [own for _, own in saved])
    try:
        for (parameter, _), noise in zip(saved, drawn, strict=True):
            parameter.data = noise
        yield
    finally:
        for parameter, own in saved:
            parameter.data = own


def noise_like(weight: torch.Tensor, generator: torch.Generator, std: float) -> torch.Tensor:
    """Normal noise in the shape and dtype of ``weight``, on its device.

    Drawn on the CPU in float32 whatever the weight is, so that a seed means the same noise
    everywhere.
    """
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32) * std
    return noise.to(device=weight.device, dtype=weight.dtype)


class NoiseStore:
    """The noise of the null adapters last used on one model, so that a seed is drawn once.

    Holds ``NOISE_MAX_BYTES`` at most, on the adapter's device; the noise least recently used goes
    first, and noise larger than that is drawn anew each time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, float], _Kept] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(each.nbytes for each in self._kept.values())

    def get(self, spec: ViewSpec, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Noise for each of ``weights``, in their order; for two on one memory it is on one too."""
        key, layout = (spec.seed, spec.noise_std), _layout(weights)
        kept = self._kept.pop(key, None)
        if kept is None or kept.layout != layout:
            kept = _Kept(_drawn(spec, weights), layout)
        if kept.nbytes <= NOISE_MAX_BYTES:
            self._kept[key] = kept
        while self.nbytes > NOISE_MAX_BYTES:
            self._kept.popitem(last=False)
        return kept.noise


@dataclass(frozen=True, slots=True)
class _Kept:
    """Noise, and the layout of the weights that it was drawn for."""

    noise: list[torch.Tensor]
    layout: list[Any]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.noise)


def _drawn(spec: ViewSpec, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    generator = torch.Generator(device="cpu").manual_seed(spec.seed)
    drawn: list[torch.Tensor] = []
    # A tensor made in inference mode could not be put in place outside of it.
    with torch.inference_mode(False):
        for own, first in zip(weights, _firsts(weights), strict=True):
            if first < len(drawn):
                # Tied: the embedding's part is the head's, seen from its other side.
                drawn.append(drawn[first].as_strided(own.shape, own.stride()))
                continue
            noise = noise_like(own, generator, spec.noise_std)
            if not own.is_contiguous():
                laid = torch.empty_strided(
                    own.shape, own.stride(), dtype=own.dtype, device=own.device
                )
                noise = laid.copy_(noise)
            drawn.append(noise)
    return drawn


_noises: weakref.WeakKeyDictionary[nn.Module, NoiseStore] = weakref.WeakKeyDictionary()


def _layout(weights: Sequence[torch.Tensor]) -> list[Any]:
    firsts = _firsts(weights)
    return [
        (each.shape, each.dtype, each.device, first)
        for each, first in zip(weights, firsts, strict=True)
    ]


def _firsts(weights: Sequence[torch.Tensor]) -> list[int]:
    """For each of ``weights``, which is the first on the same memory with as many numbers."""
    found: dict[tuple[int, int], int] = {}
    return [
        found.setdefault((each.data_ptr(), each.numel()), index)
        for index, each in enumerate(weights)
    ]

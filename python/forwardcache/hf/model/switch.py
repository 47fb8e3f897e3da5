"""Puts a model into a view and back, bit for bit.

Only fields that PEFT's layers read in ``forward`` are set, directly: ``disable_adapter`` would turn
gradients on when it ends, ``scale_layer`` accumulates rounding, and merging in place leaves the
weights 2.9e-6 off. Noise is put in place by pointing a parameter at other memory, so that its own
memory, and its version counter, are never touched. Whatever was there is put back as the very
object it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from forwardcache.hf.model.adapter_parts import lora_layers, modules_of, switched_among
from forwardcache.hf.model.flat import FLAG
from forwardcache.hf.model.null_noise import noise_for
from forwardcache.hf.spec import ViewSpec

_ABSENT = object()


@contextmanager
def switched(model: nn.Module, spec: ViewSpec) -> Iterator[None]:
    """Runs its body with ``model`` in the view ``spec``, in evaluation mode.

    The caller holds the model's lock. Restores everything, also after an exception.
    """
    modules = modules_of(model)
    with ExitStack() as stack:
        stack.enter_context(_evaluating(modules))
        stack.enter_context(_giving_logits_alone(model))
        stack.enter_context(_adapters_disabled(modules, spec.kind == "base"))
        if spec.kind == "scaled":
            stack.enter_context(rescaled(model, lambda scaling: scaling * spec.lam))
        if spec.kind == "null":
            stack.enter_context(_noise(model, spec))
        yield


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    # Module by module: a model in evaluation mode may hold a part that trains, and the reverse.
    training = [module for module in modules if module.training]
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
def _adapters_disabled(modules: Sequence[nn.Module], disabled: bool) -> Iterator[None]:
    saved = [(each, each.get(FLAG, _ABSENT)) for each in map(vars, switched_among(modules))]
    try:
        for fields, _ in saved:
            fields[FLAG] = disabled
        yield
    finally:
        for fields, flag in saved:
            if flag is _ABSENT:
                del fields[FLAG]
            else:
                fields[FLAG] = flag


@contextmanager
def rescaled(model: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """Runs its body with what ``change`` makes of each active scaling of ``model``.

    The caller holds the model's lock. Restores everything, also after an exception.
    """
    saved = [(layer, dict(layer.scaling)) for layer in lora_layers(model)]
    try:
        for layer, scaling in saved:
            for name in layer.active_adapters:
                if name in scaling:
                    layer.scaling[name] = change(scaling[name])
        yield
    finally:
        for layer, scaling in saved:
            layer.scaling.update(scaling)


@contextmanager
def _noise(model: nn.Module, spec: ViewSpec) -> Iterator[None]:
    drawn = noise_for(model, spec)
    saved = [(parameter, parameter.data) for parameter, _ in drawn]
    try:
        for parameter, noise in drawn:
            parameter.data = noise
        yield
    finally:
        for parameter, own in saved:
            parameter.data = own

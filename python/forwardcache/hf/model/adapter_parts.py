"""What of a model is an adapter's, told by PEFT's own layers.

A tuner layer names the attributes that hold its adapters (``adapter_layer_names`` and
``other_param_names``); everything below those is the adapter's, and so is what PEFT's wrappers
around the model hold besides it. The rest is the base model's, whatever its name: with trained
tokens the base's own embedding is called ``token_adapter.base_layer.weight``.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from forwardcache.hf.model.peft_kinds import (
    AuxiliaryTrainingWrapper,
    BaseTuner,
    BaseTunerLayer,
    LoraLayer,
    PeftConfig,
    PeftMixedModel,
    PeftModel,
)

# What a LoRA layer adds is the product of these, times its scaling.
LOW_RANK = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
_kind_of: Callable[[nn.Module], Any] = type
# Where a file lies, who wrote it and whether it trains decide no value.
_IDLE_SETTINGS = ("base_model_name_or_path", "revision", "peft_version", "inference_mode")


def modules_of(model: nn.Module) -> list[nn.Module]:
    """What ``model.modules()`` gives, in its order; the model's own takes many times as long."""
    found: list[nn.Module] = []
    known: set[nn.Module] = set()
    left: list[nn.Module | None] = [model]
    while left:
        module = left.pop()
        if module is not None and module not in known:
            known.add(module)
            found.append(module)
            children = module.__dict__["_modules"]
            if children:
                left += reversed(children.values())
    return found


def switched_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that carry the flag which turns adapters off."""
    return switched_among(modules_of(model))


def switched_among(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of ``modules`` that carry it."""
    return [module for module in modules if _is_switched(_kind_of(module))]


@lru_cache(maxsize=1024)
def _is_switched(kind: Any) -> bool:
    # Asked of an instance, an abstract class takes longer than the walk.
    return issubclass(kind, BaseTunerLayer | AuxiliaryTrainingWrapper)


def is_switched_outside(model: nn.Module, body: nn.Module) -> bool:
    """Whether anything that differs between views lies outside ``body``, such as in the head."""
    inside = set(body.modules())
    return any(module not in inside for module in switched_modules(model))


def lora_layers(model: nn.Module) -> Iterator[LoraLayer]:
    """The layers that carry a scaling."""
    for module in switched_modules(model):
        if isinstance(module, LoraLayer):
            yield module


def noise_parameters(model: nn.Module, *, active_only: bool = False) -> Iterator[nn.Parameter]:
    """The parameters that a null adapter replaces: every LoRA A and B, in the model's order.

    Args:
        model: The model.
        active_only: Whether those of adapters that aren't active are left out.
    """
    modules = modules_of(model)
    drawn = {
        id(parameter)
        for layer in switched_among(modules)
        if isinstance(layer, LoraLayer)
        for name in LOW_RANK
        for adapter, part in getattr(layer, name).items()
        if not active_only or adapter in layer.active_adapters
        for parameter in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    }
    # The order of ``model.parameters()``, each once.
    held = {id(each): each for module in modules for each in vars(module)["_parameters"].values()}
    return (parameter for at, parameter in held.items() if at in drawn and parameter is not None)


def available_adapters(layer: Any) -> set[str]:
    """Names of the adapters that have a part in one of ``switched_modules``."""
    if isinstance(layer, AuxiliaryTrainingWrapper):
        return set(layer._adapters)
    return set(layer._get_available_adapters())


def is_adapters(module: nn.Module, attribute: str) -> bool:
    """Whether what a module of the base model, or around it, has as ``attribute`` is an adapter's.

    Of a module that is an adapter's itself everything is.
    """
    if isinstance(module, BaseTuner):
        return attribute != "model"
    if isinstance(module, PeftModel | PeftMixedModel):
        return attribute != "base_model"
    if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return attribute in {*module.adapter_layer_names, *module.other_param_names}
    return False


def base_modules(model: nn.Module) -> set[nn.Module]:
    """The modules that can be reached without going through an adapter's attributes."""
    found, left = {model}, [model]
    while left:
        module = left.pop()
        for name, child in vars(module)["_modules"].items():
            if child is not None and child not in found and not is_adapters(module, name):
                found.add(child)
                left.append(child)
    return found


def wrapped_parameters(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """Modules and names of base parameters that PEFT replaces and puts back in every forward."""
    for module in modules:
        name = getattr(module, "parameter_name", None)
        if isinstance(module, BaseTunerLayer) and isinstance(name, str):
            yield module.get_base_layer(), name


def adapter_configs(model: Any) -> dict[str, Any]:
    """The adapters' configurations by name, whether PEFT or transformers put them on."""
    found = getattr(model, "peft_config", None)
    return dict(found) if isinstance(found, Mapping) else {}


def active_settings(model: nn.Module, layers: Iterable[nn.Module] | None = None) -> dict[str, Any]:
    """What decides values in the settings of each active adapter, as plain data.

    Args:
        model: The model.
        layers: Those of ``switched_modules`` in which it has to be active; None for any of them.
    """
    layers = switched_modules(model) if layers is None else layers
    active = {name for layer in layers for name in _active_of(layer)}
    configs = {name: each for name, each in adapter_configs(model).items() if name in active}
    return {name: _settings(config) for name, config in sorted(configs.items())}


def adapter_settings(model: nn.Module, name: str) -> Any:
    """What decides values in the settings of one adapter, as plain data; None if it has none."""
    config = adapter_configs(model).get(name)
    return None if config is None else _settings(config)


def layer_settings(layer: Any) -> dict[str, Any]:
    """What a layer keeps besides tensors and modules (indices, seeds, modes), as plain data."""
    fields = vars(layer)
    found = {name: fields[name] for name in layer.other_param_names if name in fields}
    return {name: plain(value) for name, value in sorted(found.items())}


def settings_read(layer: Any) -> list[str]:
    """The attributes of a layer to look at again and again: those whose change changes values."""
    # A LoRA layer reads its scaling only; what that was computed from would be looked at in vain.
    idle = set(LoraLayer.other_param_names) if isinstance(layer, LoraLayer) else set()
    names = [name for name in layer.other_param_names if name not in idle]
    return [name for name in names if _is_comparable(vars(layer).get(name))]


def _is_comparable(value: Any) -> bool:
    """Whether two such values are equal or not; two tensors are neither."""
    if isinstance(value, dict | list | tuple):
        return all(map(_is_comparable, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool | int | float | str | None)


def plain(value: Any) -> Any:
    """``value`` as data that JSON can hold, the same in every process; a tensor is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in sorted(value.items(), key=_by_text)}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool | int | float | str | None):
        return value
    return type(value).__qualname__ if isinstance(value, Tensor | nn.Module) else str(value)


def _by_text(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _active_of(layer: Any) -> list[str]:
    return list(layer.active_adapters)


def _settings(config: Any) -> Any:
    fields = config.to_dict() if isinstance(config, PeftConfig) else dict(vars(config))
    return plain({name: each for name, each in fields.items() if name not in _IDLE_SETTINGS})


__all__ = [
    "LOW_RANK",
    "active_settings",
    "adapter_configs",
    "adapter_settings",
    "available_adapters",
    "base_modules",
    "is_adapters",
    "layer_settings",
    "lora_layers",
    "noise_parameters",
    "plain",
    "settings_read",
    "switched_modules",
    "wrapped_parameters",
]

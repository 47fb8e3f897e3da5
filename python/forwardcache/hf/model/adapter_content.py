"""What one adapter holds, in bytes: equal for equal adapters, whatever they are called.

Everything of the model that isn't the base model's counts, but for what belongs to another adapter
by its name: tensors, scalings, settings, the kinds of its layers. Where it can't be told whose
something is, it counts for each: then equal adapters may be taken for different ones, and never the
reverse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from forwardcache.hf.model.adapter_parts import (
    adapter_settings,
    available_adapters,
    layer_settings,
)
from forwardcache.hf.model.checksum import checksums, digest_of
from forwardcache.hf.model.settings import as_json
from forwardcache.hf.model.slots import slots_of, walk

_SELF = "*"


def content_of(model: nn.Module, name: str, *, but: Collection[nn.Module] = ()) -> bytes:
    """32 bytes for what the adapter of that name holds, the same in every process.

    Args:
        model: The model with the adapter on it.
        name: What PEFT calls it there.
        but: Modules whose parts of it are left out.
    """
    names, modules = walk(model)
    layers = [
        (path, module)
        for path, module in zip(names, modules, strict=True)
        if hasattr(module, "adapter_layer_names") and module not in but
    ]
    left_out = tuple(f"{path}." for path, each in zip(names, modules, strict=True) if each in but)
    words = [as_json([adapter_settings(model, name)])]
    words += [
        _layer_words(path, layer, name)
        for path, layer in layers
        if name in available_adapters(layer)
    ]
    own, others = _places(layers, name)
    slots = [slot for slot in slots_of(model, names, modules) if not slot.is_base]
    slots = [slot for slot in slots if not slot.name.startswith(left_out)]
    tensors: list[tuple[str, Tensor]] = []
    for slot in slots:
        tensor = slot.where[slot.key]
        if id(tensor) in own or id(tensor) not in others:
            tensors.append((own.get(id(tensor), slot.name), tensor))
    for path, tensor in tensors:
        words.append(repr((path, str(tensor.dtype), tuple(tensor.shape))).encode())
    return digest_of([b"adapter", *words, *checksums([tensor for _, tensor in tensors])])


def _layer_words(path: str, layer: Any, name: str) -> bytes:
    """A layer's kind, and what it keeps of the adapter besides tensors."""
    fields = vars(layer)
    scaling = {key: float(value).hex() for key, value in fields.get("scaling", {}).items()}
    variants = {key: str(type(each)) for key, each in fields.get("lora_variant", {}).items()}
    settings = {key: _of(value, name) for key, value in layer_settings(layer).items()}
    kinds = [str(type(part)) for part in _parts(layer, name)]
    found = [scaling.get(name), variants.get(name), bool(fields.get("fan_in_fan_out")), kinds]
    return as_json([path, str(type(layer)), *found, settings])


def _of(value: Any, name: str) -> Any:
    """Of what is kept by adapter this one's, else all."""
    return value[name] if isinstance(value, Mapping) and name in value else value


def _parts(layer: Any, name: str) -> Iterator[Any]:
    """What a layer has for the adapter of that name."""
    for attribute in (*layer.adapter_layer_names, *layer.other_param_names):
        held = _held(layer, attribute)
        if isinstance(held, Mapping | nn.ModuleDict | nn.ParameterDict) and name in held:
            yield held[name]


def _held(layer: Any, attribute: str) -> Any:
    """An attribute by its name, which may have dots; None where there is none."""
    held = layer
    for part in attribute.split("."):
        held = getattr(held, part, None)
    return held


def _places(layers: list[tuple[str, Any]], name: str) -> tuple[dict[int, str], set[int]]:
    """Of tensors that layers keep by adapter: those of this one with a path, those of others."""
    own: dict[int, str] = {}
    others: set[int] = set()
    for path, layer in layers:
        for attribute in dict.fromkeys((*layer.adapter_layer_names, *layer.other_param_names)):
            held = _held(layer, attribute)
            if not isinstance(held, Mapping | nn.ModuleDict | nn.ParameterDict):
                continue
            for key, part in held.items():
                for inner, tensor in _tensors_in(part):
                    if key == name:
                        own.setdefault(id(tensor), f"{path}.{attribute}.{_SELF}{inner}")
                    else:
                        others.add(id(tensor))
    return own, others


def _tensors_in(part: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield "", part
    elif isinstance(part, nn.Module):
        for path, tensor in (*part.named_parameters(), *part.named_buffers()):
            yield f".{path}", tensor


__all__ = ["content_of"]

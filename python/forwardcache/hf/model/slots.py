"""Where a model's tensors lie: its parameters and buffers, and those that it holds otherwise.

Besides ``_parameters`` and ``_buffers`` there are tensors on parameters (row scales of 8-bit
weights), in an adapter's own attributes (indices, directions), and in what a module saves of its
own (packed weights). All of them decide values, so all of them are in a model's identity. Not
looked for: attributes of a base model's ordinary modules, which many forwards write to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from forwardcache.hf.model.adapter_parts import base_modules, is_adapters, wrapped_parameters
from forwardcache.hf.model.peft_kinds import AuxiliaryTrainingWrapper, BaseTunerLayer

CONTAINERS = ("_parameters", "_buffers")
_OF_TORCH = frozenset(vars(nn.Module()))
# Deep enough for a parameter's quantisation, which has one of its own.
_DEPTH = 4
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a tensor.

    Attributes:
        name: Its name, by which places are told apart.
        where: The dictionary or list that has it.
        key: Under which key.
        is_base: Whether it is the base model's, not an adapter's.
        is_wrapped: Whether forwards replace it and put it back, as the same but a newer version.
        is_hidden: Whether it is neither a parameter nor a buffer.
    """

    name: str
    where: Any
    key: Any
    is_base: bool
    is_wrapped: bool = False
    is_hidden: bool = False


def walk(model: nn.Module) -> tuple[list[str], list[nn.Module]]:
    """Names and modules, each once; ``named_modules`` costs several times as much."""
    names, modules, known = [""], [model], {model}
    for name, module in zip(names, modules, strict=False):
        for key, child in vars(module)["_modules"].items():
            if child is not None and child not in known:
                known.add(child)
                modules.append(child)
                names.append(f"{name}.{key}")
    return names, modules


def slots_of(model: nn.Module, names: list[str], modules: list[nn.Module]) -> list[Slot]:
    """All places of tensors in ``modules``, as ``walk`` gave them.

    First those in dictionaries that stay as they are, then those of ``restless_modules``, by name,
    then the hidden ones, by name.
    """
    base, restless = base_modules(model), restless_modules(modules)
    firm: list[Slot] = []
    picked: list[Slot] = []
    for name, module in zip(names, modules, strict=True):
        rewritten = set(rewritten_buffers(module))
        for container in CONTAINERS:
            held = vars(module)[container]
            for key in sorted(held) if module in restless else held:
                if held[key] is not None and key not in rewritten:
                    is_base = module in base and not is_adapters(module, key)
                    moves = key in restless.get(module, ())
                    slot = Slot(f"{name}.{key}", held, key, is_base, moves)
                    (picked if module in restless else firm).append(slot)
    found = firm + picked
    known = {id(slot.where[slot.key]) for slot in found}
    for slot in sorted(_hidden(found, names, modules, base), key=attrgetter("name")):
        if id(slot.where[slot.key]) not in known:
            known.add(id(slot.where[slot.key]))
            found.append(slot)
    return found


def restless_modules(modules: Iterable[nn.Module]) -> dict[nn.Module, set[str]]:
    """Modules whose tensors move in forwards, with the names of those that are replaced."""
    found: dict[nn.Module, set[str]] = {
        module: set() for module in modules if any(rewritten_buffers(module))
    }
    for module, key in wrapped_parameters(modules):
        found.setdefault(module, set()).add(key)
    return found


def rewritten_buffers(module: nn.Module) -> Iterator[str]:
    """Buffers that every forward sets before it reads them: longrope's frequencies.

    Which of the two sets is in them tells how long the last prompt was, and nothing of the model.
    """
    kinds = getattr(module, "rope_type", None)
    for layer, kind in (kinds if isinstance(kinds, dict) else {"": kinds}).items():
        prefix = f"{layer}_" if layer else ""
        if kind == "longrope" and hasattr(module, f"{prefix}original_inv_freq"):
            yield f"{prefix}inv_freq"


def _hidden(
    found: list[Slot], names: list[str], modules: list[nn.Module], base: set[nn.Module]
) -> Iterator[Slot]:
    for slot in found:
        tensor = slot.where[slot.key]
        # What such a tensor is made of, it says itself.
        if not hasattr(tensor, "__tensor_flatten__"):
            for key in vars(tensor):
                for path, where, inner in _tensors_at(vars(tensor), key, slot.name, objects=True):
                    yield Slot(path, where, inner, slot.is_base, is_hidden=True)
    for name, module in zip(names, modules, strict=True):
        is_layer = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        if is_layer or module not in base or saves_itself(module):
            for key in vars(module).keys() - _OF_TORCH:
                is_base = module in base and not is_adapters(module, key)
                for path, where, inner in _tensors_at(vars(module), key, name):
                    yield Slot(path, where, inner, is_base, is_hidden=True)


def _tensors_at(
    where: Any, key: Any, path: str, *, objects: bool = False, depth: int = 0
) -> Iterator[tuple[str, Any, Any]]:
    """Path, container and key of each tensor in nested containers, and in objects if asked for."""
    value, path = where[key], f"{path}.{key}"
    if isinstance(value, Tensor):
        yield path, where, key
        return
    if objects and hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        value = vars(value)
    if isinstance(value, dict | list | tuple) and depth < _DEPTH:
        for inner in value if isinstance(value, dict) else range(len(value)):
            yield from _tensors_at(value, inner, path, objects=objects, depth=depth + 1)


def saves_itself(module: nn.Module) -> bool:
    """Whether a module saves something in a way of its own, besides parameters and buffers."""
    kind = type(module)
    ways = ("_save_to_state_dict", "get_extra_state", "state_dict")
    return any(getattr(kind, way) is not getattr(nn.Module, way) for way in ways)


def packed_objects(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where a module has packed weights: they are replaced as a whole and never written to."""
    fields = vars(module)
    return [(fields, key) for key, each in fields.items() if isinstance(each, torch.ScriptObject)]


def saved_by(module: nn.Module) -> tuple[list[Tensor], list[bytes]] | None:
    """The tensors that a module saves, and the rest in words; None if that can't be read."""
    kind = type(module)
    try:
        if kind.state_dict is not nn.Module.state_dict:
            saved: dict[str, Any] = dict(module.state_dict())
        else:
            saved = {}
            module._save_to_state_dict(saved, "", False)
    except Exception:
        return None
    tensors: list[Tensor] = []
    words: list[bytes] = []
    return (tensors, words) if _sort_out(saved, tensors, words) else None


def _sort_out(value: Any, tensors: list[Tensor], words: list[bytes]) -> bool:
    """Puts tensors to tensors and plain values to words; whether that was all."""
    if isinstance(value, Tensor):
        tensors.append(value)
        words.append(repr((str(value.dtype), tuple(value.shape))).encode())
        return True
    if isinstance(value, _PLAIN):
        words.append(repr(value).encode("utf-8", "surrogatepass"))
        return True
    if isinstance(value, dict):
        words.append(b"{")
        return all(_sort_out([key, each], tensors, words) for key, each in value.items())
    if isinstance(value, list | tuple):
        words.append(b"[")
        return all(_sort_out(each, tensors, words) for each in value)
    return False


__all__ = [
    "CONTAINERS",
    "Slot",
    "packed_objects",
    "restless_modules",
    "saved_by",
    "saves_itself",
    "slots_of",
    "walk",
]

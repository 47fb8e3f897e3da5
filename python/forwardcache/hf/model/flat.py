"""What a look at a model goes over: dictionaries and settings in flat lists, found in one walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from forwardcache.hf.model.adapter_parts import adapter_configs, settings_read, switched_modules
from forwardcache.hf.model.slots import CONTAINERS, Slot, packed_objects, restless_modules, walk

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")
FLAG = "_disable_adapters"
_ADAPTER_FIELDS = ("_active_adapter", "merged_adapters", "scaling")
Read = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Flat:
    """What a look goes over.

    Attributes:
        fields: Each module's ``__dict__``.
        sizes: Number of attributes in each.
        empty: Dictionaries of tensors and modules with nothing in them.
        children: Those with modules in them.
        tensors: Those with parameters or buffers in them, or None in the place of one.
        is_there: Whether each of these is a tensor.
        picked: Container and key of what is looked at one by one: hidden tensors, packed weights,
            and parameters and buffers of modules whose dictionaries don't keep their order.
        containers: The containers in ``picked``.
        hooks: Dictionaries of hooks that hold any.
        unhooked: Those that hold none.
        forwards: Fields of the modules with a ``forward`` of their own.
        adapted: What reads the settings of some adapter layers, and those layers' fields.
        flagged: Those that have the flag which turns adapters off.
        configured: Fields of the modules that have a configuration.
        settings: Each configuration's ``__dict__``.
    """

    fields: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    empty: list[dict[Any, Any]] = field(default_factory=list)
    children: list[dict[Any, Any]] = field(default_factory=list)
    tensors: list[dict[Any, Any]] = field(default_factory=list)
    is_there: list[bool] = field(default_factory=list)
    picked: list[tuple[Any, Any]] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    hooks: list[dict[Any, Any]] = field(default_factory=list)
    unhooked: list[dict[Any, Any]] = field(default_factory=list)
    forwards: list[dict[str, Any]] = field(default_factory=list)
    adapted: list[tuple[Read, list[dict[str, Any]]]] = field(default_factory=list)
    flagged: list[dict[str, Any]] = field(default_factory=list)
    configured: list[dict[str, Any]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)

    def firm(self) -> list[Tensor | None]:
        """What is in ``tensors`` now."""
        return list(chain.from_iterable(map(dict.values, self.tensors)))

    def loose(self) -> list[Tensor]:
        """The tensors that are looked at one by one."""
        picked = [where[key] for where, key in self.picked]
        return [each for each in picked if isinstance(each, Tensor)]


def flattened(model: nn.Module, modules: list[nn.Module], slots: list[Slot]) -> Flat:
    """What a look at a model goes over, by its modules and the places of its tensors."""
    fields = [vars(module) for module in modules]
    restless = restless_modules(modules)
    firm = [vars(each)[name] for each in modules if each not in restless for name in CONTAINERS]
    loose = {id(vars(each)[name]) for each in restless for name in CONTAINERS}
    children = [each["_modules"] for each in fields]
    packed = [place for module in modules for place in packed_objects(module)]
    picked = [(slot.where, slot.key) for slot in slots if slot.is_hidden or id(slot.where) in loose]
    hooks = [each[name] for each in fields for name in HOOKS]
    hooks += [vars(torch_module)[name] for name in GLOBAL_HOOKS]
    layers = list(switched_modules(model))
    return Flat(
        fields=fields,
        sizes=list(map(len, fields)),
        empty=[each for each in (*firm, *children) if not each],
        children=[each for each in children if each],
        tensors=[each for each in firm if each],
        is_there=[tensor is not None for each in firm for tensor in each.values()],
        picked=picked + packed,
        containers=list({id(where): where for where, _ in picked}.values()),
        hooks=[each for each in hooks if each],
        unhooked=[each for each in hooks if not each],
        forwards=[each for each in fields if "forward" in each],
        adapted=_readers(layers),
        flagged=[vars(layer) for layer in layers if FLAG in vars(layer)],
        configured=[each for each in fields if "config" in each],
        settings=[vars(config) for config in configs_of(model)],
    )


def _readers(layers: list[Any]) -> list[tuple[Read, list[dict[str, Any]]]]:
    """What reads the layers' settings, and where; one not set there is its class's."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for layer in layers:
        fields = vars(layer)
        names = dict.fromkeys((*_ADAPTER_FIELDS, *settings_read(layer)))
        found.setdefault(tuple(name for name in names if name in fields), []).append(fields)
    return [(itemgetter(*names), layers) for names, layers in found.items() if names]


def configs_of(model: Any) -> list[Any]:
    """The configurations of a model's modules and adapters, each once."""
    configs = [vars(module)["config"] for module in walk(model)[1] if "config" in vars(module)]
    found = {id(each): each for each in (*configs, *adapter_configs(model).values())}
    return [config for config in found.values() if hasattr(config, "__dict__")]


__all__ = ["FLAG", "GLOBAL_HOOKS", "HOOKS", "Flat", "configs_of", "flattened"]

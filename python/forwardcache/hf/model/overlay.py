"""An adapter as a layer over a model: put on and taken off by putting the same objects back.

PEFT puts adapters on a model by replacing modules with layers of its own. ``overlaid`` notes what a
loading replaced, object by object, and takes it off again; then the model is, in every flag and
every dictionary, what it was before. Putting it back on is a matter of microseconds and touches no
weight. So several adapters stand side by side without knowing of each other, of whatever methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from forwardcache.hf.model.peft_kinds import AuxiliaryTrainingWrapper, BaseTunerLayer
from forwardcache.hf.model.slots import walk

_ABSENT: Any = object()
# Dictionaries of a module whose entries are looked at one by one.
_HELD = (
    "_modules",
    "_parameters",
    "_buffers",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
# Put back at once: in a view every module is in evaluation mode anyway.
_MODE = "training"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One place of a model that a loading changed.

    Attributes:
        where: The dictionary.
        key: Under which key.
        plain: What is there without the adapter; ``_ABSENT`` for nothing.
        adapted: What is there with it.
    """

    where: dict[Any, Any]
    key: Any
    plain: Any
    adapted: Any


@dataclass(slots=True)
class Overlay:
    """What an adapter puts into a model.

    Attributes:
        entries: The places that it changes.
    """

    entries: list[_Entry] = field(default_factory=list)

    @contextmanager
    def on(self) -> Iterator[None]:
        """The adapter is on the model in the body. The caller holds the model's lock."""
        done: list[_Entry] = []
        try:
            for entry in self.entries:
                done.append(entry)
                _put(entry.where, entry.key, entry.adapted)
            yield
        finally:
            for entry in reversed(done):
                _put(entry.where, entry.key, entry.plain)

    @contextmanager
    def off(self) -> Iterator[None]:
        """An adapter that is on the model is off in the body."""
        done: list[_Entry] = []
        try:
            for entry in self.entries:
                done.append(entry)
                _put(entry.where, entry.key, entry.plain)
            yield
        finally:
            for entry in reversed(done):
                _put(entry.where, entry.key, entry.adapted)

    def fits(self) -> bool:
        """Whether the model, without the adapter, has what it had when the adapter was loaded."""
        return all(each.where.get(each.key, _ABSENT) is each.plain for each in self.entries)


class Snapshot:
    """What a model's dictionaries hold at one moment, and its tensors' flags.

    Args:
        model: Without an adapter.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held = [(each, dict(each)) for each in _dictionaries(model)]
        self._tensors = [
            (each, each.requires_grad, each._version, each.data_ptr())
            for each in (*model.parameters(), *model.buffers())
        ]

    def changed(self) -> Overlay:
        """What is other by now, flags of training and of gradients apart, and takes it off.

        The model is as it was at the moment of the snapshot afterwards.
        """
        entries: list[_Entry] = []
        for where, before in self._held:
            for key in [*before, *(each for each in where if each not in before)]:
                plain, now = before.get(key, _ABSENT), where.get(key, _ABSENT)
                if now is not plain:
                    _put(where, key, plain)
                    if key != _MODE:
                        entries.append(_Entry(where, key, plain, now))
            if list(where) != list(before):
                where.clear()
                where.update(before)
        for tensor, needs_gradient, _, _ in self._tensors:
            if tensor.requires_grad != needs_gradient:
                tensor.requires_grad_(needs_gradient)
        return Overlay(entries)

    def written(self) -> bool:
        """Whether a tensor was written to, or points at other memory; its content may be other."""
        return any(
            tensor._version != version or tensor.data_ptr() != pointer
            for tensor, _, version, pointer in self._tensors
        )


def _put(where: dict[Any, Any], key: Any, value: Any) -> None:
    if value is _ABSENT:
        where.pop(key, None)
    else:
        where[key] = value


def _dictionaries(model: nn.Module) -> Iterator[dict[Any, Any]]:
    """The dictionaries of each module and of its configuration."""
    seen: set[int] = set()
    for module in walk(model)[1]:
        fields = vars(module)
        yield fields
        for name in _HELD:
            if isinstance(held := fields.get(name), dict):
                yield held
        config = fields.get("config")
        for each in (config, *vars(config).values()) if hasattr(config, "__dict__") else ():
            if hasattr(each, "to_dict") and id(each) not in seen:
                seen.add(id(each))
                yield vars(each)


def wrapped(model: nn.Module) -> Overlay:
    """What the adapters that are on a model stand around.

    For a model that came with its adapters on: nothing else of what putting them on changed can be
    told any more.
    """
    entries: list[_Entry] = []
    left, seen = [model], {model}
    while left:
        module = left.pop()
        for key, child in vars(module)["_modules"].items():
            plain = child
            while isinstance(plain, BaseTunerLayer | AuxiliaryTrainingWrapper):
                plain = _below(plain)
            if plain is not child:
                entries.append(_Entry(vars(module)["_modules"], key, plain, child))
            if isinstance(plain, nn.Module) and plain not in seen:
                seen.add(plain)
                left.append(plain)
    if "peft_config" in (fields := vars(model)):
        entries.append(_Entry(fields, "peft_config", _ABSENT, fields["peft_config"]))
    return Overlay(entries)


def _below(layer: Any) -> Any:
    """What an adapter's layer or wrapper stands around."""
    is_wrapper = isinstance(layer, AuxiliaryTrainingWrapper)
    return layer.original_module if is_wrapper else layer.get_base_layer()


__all__ = ["Overlay", "Snapshot", "wrapped"]

"""Classes of what is in settings: which objects a look at dictionaries tells all about.

Both answers are about a class itself and never about those derived from it: such a class may keep
more, in slots or as a dictionary or a list does, and may compare that.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import inspect
import types
from functools import cache
from typing import Any

import torch
from transformers import PretrainedConfig

_FIXED = (
    *(type, abc.ABCMeta, enum.EnumMeta, types.FunctionType, types.BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.layout, torch.Size),
)
_UNCHANGING = (object, str, int, float, complex, bytes)


class _Plain:
    """What a class is that keeps nothing but its attributes."""


def is_fixed(kind: type) -> bool:
    """Whether objects of exactly this class stay what they are, so far as they are compared."""
    if kind in _FIXED:
        return True
    return issubclass(kind, enum.Enum) and _owner_of(kind, "__eq__") in _UNCHANGING


def is_record(kind: type) -> bool:
    """Whether objects of exactly this class are equal if their attributes in ``__dict__`` are.

    True also for those that are equal to themselves alone.
    """
    if _shape_of(kind) != _shape_of(_Plain) or not _reads_plainly(kind):
        return False
    owner = _owner_of(kind, "__eq__")
    if owner in (object, PretrainedConfig):
        return owner is object or PretrainedConfig in kind.__mro__
    if "__dataclass_fields__" not in vars(owner):
        return False
    names = tuple(each.name for each in dataclasses.fields(owner) if each.compare)
    # A property may keep a field elsewhere, and some configurations read one name for another.
    read = *names, *getattr(kind, "attribute_map", {}).values()
    return _is_made(vars(owner)["__eq__"], names) and not any(
        hasattr(type(inspect.getattr_static(kind, name, None)), "__get__") for name in read
    )


def _shape_of(kind: type) -> tuple[int, ...]:
    """Where the memory of an object goes: with room for slots or for a base in C it is another."""
    return kind.__basicsize__, kind.__itemsize__, kind.__dictoffset__, kind.__weakrefoffset__


def _reads_plainly(kind: type) -> bool:
    """Whether an attribute that is in ``__dict__`` is read from there."""
    reader = _owner_of(kind, "__getattribute__")
    return (
        (reader is object or reader in PretrainedConfig.__mro__)
        and not hasattr(kind, "__getattr__")
        and _owner_of(kind, "__class__") is object
        and isinstance(inspect.getattr_static(kind, "__dict__"), types.GetSetDescriptorType)
    )


def _owner_of(kind: type, name: str) -> type:
    """The class that a class has a method from; ``object`` where there is none."""
    return next((each for each in kind.__mro__ if name in vars(each)), object)


def _is_made(equality: Any, names: tuple[str, ...]) -> bool:
    """Whether a dataclass's ``__eq__`` was made by ``dataclasses``; others may ask for anything."""
    if not isinstance(equality, types.FunctionType):
        return False
    code, made = equality.__code__, _made(names)
    return (code.co_code, code.co_names, code.co_consts) == (
        made.co_code,
        made.co_names,
        made.co_consts,
    )


@cache
def _made(names: tuple[str, ...]) -> types.CodeType:
    kind: Any = dataclasses.make_dataclass("made", [(name, object) for name in names])
    code: types.CodeType = kind.__eq__.__code__
    return code


__all__ = ["is_fixed", "is_record"]

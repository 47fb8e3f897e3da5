"""The look at a model's structure in microseconds, where CPython numbers changes of dictionaries.

All that ``ModelWatch`` compares is in dictionaries, or in settings and code that are reached from
them. While no dictionary got another number nothing in it differs, in which order ever; so a look
goes over the numbers, over the lists and sets in settings, and over nothing else. Whoever is told
that something moved looks closer, and takes a new look if it was for nothing that matters.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from forwardcache._core import _ModelLook
from forwardcache.hf.model.code import CodeWatch, Places
from forwardcache.hf.model.flat import Flat
from forwardcache.hf.model.tags import are_dicts_numbered

_FIXED = (
    *(type, types.FunctionType, types.BuiltinFunctionType, enum.Enum),
    *(torch.dtype, torch.device, torch.layout, torch.Size),
)
# An object's own header, and room for what leads to its dictionary and its weak references.
_PLAIN_SIZE = object.__basicsize__ + 16


class QuickLook:
    """One look, taken again after each change that doesn't matter.

    Args:
        flat: What a look goes over.
        code: The code that the model runs.
    """

    def __init__(self, flat: Flat, code: CodeWatch) -> None:
        self._flat = flat
        self._records: tuple[type, ...] = ()
        self._look: _ModelLook | None = None
        self._code: Places | None = None
        self._dicts: tuple[dict[Any, Any], ...] = ()
        self._tensors: tuple[dict[Any, Any], ...] = ()
        containers = flat.containers
        self.is_possible = are_dicts_numbered() and all(
            isinstance(each, dict) for each in containers
        )
        if self.is_possible:
            self._code = code.places()
            self._dicts = tuple(self._all_dicts())
            self._tensors = tuple(flat.tensors)
            self._learn()

    def _all_dicts(self) -> Iterator[dict[Any, Any]]:
        flat = self._flat
        lists = flat.fields, flat.empty, flat.children, flat.tensors, flat.containers
        found = {id(each): each for held in (*lists, flat.hooks, flat.unhooked) for each in held}
        yield from found.values()
        yield from () if self._code is None else self._code.dicts

    @property
    def sees_settings(self) -> bool:
        """Whether it sees all that settings are made of; else they have to be compared."""
        return self._look is not None and not self._look.unclear

    @property
    def sees_code(self) -> bool:
        """Whether it sees the code that runs; else it has to be looked at."""
        return self._code is not None

    def tensors(self) -> list[Tensor] | None:
        """The model's tensors, if nothing was changed since the look; else None."""
        return None if self._look is None else self._look.unchanged()

    def taken(self) -> _ModelLook:
        """A look, for ``keep``: to be taken before whatever it stands for is compared.

        Raises:
            KeyError, IndexError, RuntimeError: something is gone from where it was.
        """
        flat = self._flat
        read = [read(layer) for read, layers in flat.adapted for layer in layers]
        places = self._code
        return _ModelLook(
            self._dicts,
            self._tensors,
            [(where, key) for where, key in flat.picked if isinstance(where[key], Tensor)],
            [*read, *flat.settings],
            (_FIXED, self._records),
            ([], []) if places is None else (places.classes, places.names),
        )

    def keep(self, look: _ModelLook | None) -> None:
        """From now on nothing was changed if nothing was since ``look``; None for no look."""
        self._look = look

    def forget(self, nothing: Flat) -> None:
        """Lets go of everything, with ``nothing`` in its place; no look is taken any more."""
        self.is_possible, self._look, self._code = False, None, None
        self._flat, self._dicts, self._tensors = nothing, (), ()

    def _learn(self) -> None:
        """Which classes the settings are made of."""
        while True:
            unclear = {type(each) for each in self.taken().unclear}
            records = tuple(kind for kind in unclear if _is_record(kind))
            if not set(records) - set(self._records):
                return
            self._records += records


def _is_record(kind: type) -> bool:
    """Whether objects of a class are made of their attributes alone, and equal if those are."""
    if kind.__basicsize__ > _PLAIN_SIZE or not kind.__dictoffset__ or kind.__itemsize__:
        return False
    equality: Any = getattr(kind, "__eq__", None)
    if dataclasses.is_dataclass(kind):
        # One that was written by hand may ask for anything.
        is_made = getattr(getattr(equality, "__code__", None), "co_filename", "") == "<string>"
        return is_made or equality is object.__eq__
    return equality in (object.__eq__, PretrainedConfig.__eq__)


__all__ = ["QuickLook"]

"""The look at a model's structure in microseconds, where CPython numbers changes of dictionaries.

All that ``ModelWatch`` compares is in dictionaries, or in settings and code that are reached from
them. While no dictionary got another number nothing in it differs, in which order ever; so a look
goes over the numbers, over the lists and sets in settings, and over nothing else. Whoever is told
that something moved looks closer, and takes a new look if it was for nothing that matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from forwardcache._core import _ModelLook
from forwardcache.hf.model.code import CodeWatch, Places
from forwardcache.hf.model.flat import Flat
from forwardcache.hf.model.kinds import is_fixed, is_record
from forwardcache.hf.model.tags import are_dicts_numbered


class QuickLook:
    """One look, taken again after each change that doesn't matter.

    Args:
        flat: What a look goes over.
        code: The code that the model runs.
    """

    def __init__(self, flat: Flat, code: CodeWatch) -> None:
        self._flat = flat
        self._fixed: set[type] = set()
        self._records: set[type] = set()
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
            (list(self._fixed), list(self._records)),
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
            found = {type(each) for each in self.taken().unclear}
            fixed = set(filter(is_fixed, found)) - self._fixed
            records = set(filter(is_record, found)) - fixed - self._records
            if not fixed and not records:
                return
            self._fixed |= fixed
            self._records |= records


__all__ = ["QuickLook"]

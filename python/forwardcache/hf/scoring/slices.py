"""A smaller ``top_k`` out of a larger one that is cached.

Before a lookup with ``top_k`` 8, where the same prompt, view and model state are there with 64 and
not with 8, the first 8 are put into the cache under their own key. The lookup that follows is then
an ordinary hit: counted, traced and kept as one, with ``top_k`` 8. Nothing is computed, so nothing
counts as a miss or a forward. Only ``get`` and ``put`` of the cache are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwardcache.divergence import narrowed
from forwardcache.instrumentation import _MISS
from forwardcache.scoring import TokenDist

# Values of top_k that are remembered; a caller who uses more gets no slices for the oldest.
_MOST_ASKED = 8


class Slices:
    """Which ``top_k`` were asked for, so that a larger one can be looked for."""

    def __init__(self) -> None:
        self._asked = _Asked(())

    def fill(self, cache: Any, prompts: Sequence[Any], top_k: int, key: Any) -> None:
        """Puts into ``cache`` what it has for ``prompts`` with a larger ``top_k`` only.

        Args:
            cache: Whatever the instrumentation uses at present.
            prompts: The prompts that are looked up next.
            top_k: With this many tokens.
            key: Gives the cache's key of a prompt and a ``top_k``.
        """
        for larger in self.larger(top_k):
            for prompt in prompts:
                if cache.get(key(prompt, top_k)) is _MISS:
                    found = cache.get(key(prompt, larger))
                    if isinstance(found, TokenDist):
                        cache.put(key(prompt, top_k), narrowed(found, top_k))

    def larger(self, top_k: int) -> tuple[int, ...]:
        """Those asked for before, smallest first; ``top_k`` is remembered."""
        asked = self._asked
        known = asked.larger.get(top_k)
        return self._found(asked, top_k) if known is None else known

    def _found(self, asked: _Asked, top_k: int) -> tuple[int, ...]:
        larger = tuple(sorted(each for each in asked.numbers if each > top_k))
        if top_k in asked.numbers:
            asked.larger[top_k] = larger
        else:
            # Another object, so that no thread writes what it found before into what holds now.
            self._asked = _Asked((*asked.numbers, top_k)[-_MOST_ASKED:])
        return larger


class _Asked:
    """The ``top_k`` asked for so far, in order, and the larger ones of each that is known."""

    __slots__ = ("larger", "numbers")

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.numbers = numbers
        self.larger: dict[int, tuple[int, ...]] = {}

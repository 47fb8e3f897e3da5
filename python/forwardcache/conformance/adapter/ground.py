"""What is made once for a model: texts, adapters, and the exact values of both."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.planting.exact import Exact, Text
from forwardcache.hf.planting.plant import Plant, plant
from forwardcache.hf.planting.recipes import KINDS, PATTERNS, recipes

__all__ = ["SHARED", "TURNS", "Ground", "Pair", "Profile"]

Profile = Literal["quick", "full"]

SHARED = (4, 8, 16, 40)
"""How many first tokens two texts share; engines keep beginnings in blocks of up to 32."""

_BEYOND = 8
"""Tokens of a text, at least, after those that it shares with another."""

COMPANY = ("all_linear", "other", "new")
"""Adapters that are loaded beside or after each other."""

_PURPOSES = (
    *("base", "base_loaded", "base_unloaded", "two_first", "two_second", "two_again", "two_base"),
    *("reload_before", "reload_after", "reload_with_unload", "prefixes_after_reload"),
    *("all_linear", *KINDS, "first_layer", "last_layer", *PATTERNS),
)
AT_ONCE = ("together", "alone")
"""Eight texts each."""

TURNS = 6
"""Ways in which pairs of texts are asked for."""

_TWICE, _MANY = 2.0, 8
_PAIRS = 2 * TURNS
"""For each number of tokens that they share."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that begin in the same way.

    Attributes:
        earlier: What is asked for first.
        later: What is asked for then.
        shared: How many tokens they have in common.
    """

    earlier: Text
    later: Text
    shared: int


class Ground:
    """Texts and adapters for one model.

    Every text has a first token of its own, so that no prefix cache knows its beginning.

    Args:
        model: Its folder.
        folder: Where adapters are put.
        profile: ``"quick"`` or ``"full"``: how many texts, how long.

    Raises:
        ModelLoadError: the model's folder is missing or broken.
        UnsupportedModelError: no adapter can be made for this model.
    """

    def __init__(self, model: str, folder: Path, profile: Profile) -> None:
        self.exact = Exact(model)
        self.profile: Profile = profile
        self._folder = folder
        self._recipes = recipes(self.exact.places)
        self._plants: dict[tuple[str, float], Plant | str] = {}
        self._numbers = itertools.count()
        most = min(self.exact.context, 24 if profile == "quick" else 96)
        lengths = (most, most - most // 6, most - most // 3)
        self._lengths = lengths if profile == "quick" else lengths * 3
        self._pool = self._sampled_pool(most)
        self._pairs: list[Pair] | None = None

    @property
    def plantable(self) -> frozenset[str]:
        """Names of the adapters that can be made."""
        return frozenset(self._recipes)

    def texts(self, purpose: str) -> list[Text]:
        """The texts that are asked for one purpose and no other.

        Args:
            purpose: A check, or a step of one.
        """
        if purpose in AT_ONCE:
            begin = len(self._pool) - (AT_ONCE.index(purpose) + 1) * _MANY
            return self._pool[begin : begin + _MANY]
        each, begin = len(self._lengths), _PURPOSES.index(purpose) * len(self._lengths)
        pool = self._pool[begin : begin + each]
        return [text[:length] for text, length in zip(pool, self._lengths, strict=True)]

    def pairs(self, turn: int) -> list[Pair]:
        """Pairs of texts with 4, 8, 16 and 40 tokens in common, of equal and different length.

        Args:
            turn: From 0 to ``TURNS`` - 1; each has pairs of its own, which no other asks for.
        """
        if self._pairs is None:
            begin = len(_PURPOSES) * len(self._lengths)
            begun = self._pool[begin : begin + _PAIRS * len(SHARED)]
            self._pairs = []
            for index, shared in enumerate(SHARED):
                length = max(len(begun[0]), shared + _BEYOND)
                if length > self.exact.context:
                    continue
                earlier = self._as_long_as(length, begun[index :: len(SHARED)])
                later = self.exact.sampled([text[:shared] for text in earlier], length, 1)
                for number, (one, other) in enumerate(zip(earlier, later, strict=True)):
                    cut = length if number % 2 else (shared + length + 2) // 2
                    self._pairs.append(Pair(one, other[:cut], shared))
        return [each for n, each in enumerate(self._pairs) if n % _PAIRS // 2 == turn]

    def _as_long_as(self, length: int, texts: list[Text]) -> list[Text]:
        return texts if len(texts[0]) >= length else self.exact.sampled(texts, length, 2)

    def plant(self, name: str, effect: float, floor: float) -> Plant:
        """An adapter that changes values by ``effect`` nats and by 20 times its floor.

        Args:
            name: The recipe's.
            effect: Root mean square, nats.
            floor: That of the base, nats.

        Raises:
            UnsupportedModelError: no strength of it does.
        """
        if name in COMPANY:
            # Further apart, where the model can be moved so far.
            with suppress(UnsupportedModelError):
                return self._strong_enough(name, effect * _TWICE, floor)
        return self._strong_enough(name, effect, floor)

    def _strong_enough(self, name: str, wanted: float, floor: float) -> Plant:
        for _ in range(3):
            found = self._planted(name, wanted)
            if found.effect >= 20 * floor * found.amplified:
                return found
            wanted *= 2 * max(1.0, 20 * floor * found.amplified / found.effect)
        raise UnsupportedModelError(
            f"{name} changes a token by {found.effect:.3g} nats, less than 20 times the floor of "
            f"{floor * found.amplified:.2g}"
        )

    def _planted(self, name: str, effect: float) -> Plant:
        key = name, effect
        if key not in self._plants:
            # What came of it too weak has a folder too.
            folder = self._folder / f"{name}-{next(self._numbers)}"
            texts = self.texts(name if name in _PURPOSES else "two_first")
            recipe = self._recipes[name]
            try:
                self._plants[key] = plant(self.exact, recipe, folder, effect=effect, texts=texts)
            except UnsupportedModelError as error:
                # To find out takes longer than all else.
                self._plants[key] = str(error)
        found = self._plants[key]
        if isinstance(found, str):
            raise UnsupportedModelError(found)
        return found

    def _sampled_pool(self, length: int) -> list[Text]:
        count = len(_PURPOSES) * len(self._lengths) + _PAIRS * len(SHARED)
        count += _MANY * len(AT_ONCE)
        firsts = self.exact.likely(2 * count)
        random.Random(0).shuffle(firsts)
        starts = [(firsts[n % len(firsts)],) for n in range(count)]
        batch = 64
        pool: Sequence[Text] = [
            text
            for begin in range(0, count, batch)
            for text in self.exact.sampled(starts[begin : begin + batch], length, begin)
        ]
        return list(pool)

"""One engine under check: its floor, what is loaded, what was asked and came."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from forwardcache.conformance.adapter.diagnose import Case, apart, diagnosis, evidence_of
from forwardcache.conformance.adapter.failures import (
    AdapterFailure,
    BaseChanged,
    DependsOnBatch,
    WrongValues,
)
from forwardcache.conformance.adapter.ground import Ground
from forwardcache.conformance.adapter.subject import Caller, Given, SubjectRaisedError
from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.planting.exact import Text, Values
from forwardcache.hf.planting.plant import Plant

__all__ = ["CheckSkippedError", "Findings", "Session"]

Findings = Generator[AdapterFailure]

EFFECT_NATS = 0.3
"""By how much an adapter changes a token's log-probability, where the floor asks for no more."""

TIMES_FLOOR = 30.0
WRONG_FROM = 6.0
"""Values are wrong from so many times the floor on; an effect is at least 20 times the floor."""

_LEAST_FLOOR_NATS = 5e-4
_LEAST_SHARE = 0.008
"""Of an effect: what may become of it by rounding the adapter's own weights to 16 bits."""

_DTYPE_EXPLAINS = 6.0
"""Times what rounding every product to 16 bits changes."""


class CheckSkippedError(Exception):
    """The engine or the model has nothing of what a check is about; the text says what."""


class Session:
    """An engine, and what is known of it so far.

    Args:
        caller: Asks it.
        ground: What is made for its model.

    Attributes:
        floor: What rounding makes of the base's values, root mean square, nats.
        loaded: The adapters that are loaded, by name.
        nearest: Of what was judged since it was last set to None, what came nearest to being wrong.
    """

    def __init__(self, caller: Caller, ground: Ground) -> None:
        self.caller = caller
        self.ground = ground
        self.floor = _LEAST_FLOOR_NATS
        self.loaded: dict[str, Plant] = {}
        self.nearest: Case | None = None
        self._was_loaded: list[Plant] = []
        self._numbers = itertools.count(1)

    def measure(self) -> Findings:
        """Take the floor: the engine's own base against the exact one."""
        texts = self.ground.texts("base")
        given = self.ask(texts, None)
        exact = self.ground.exact
        rounded = _distance(exact.values(texts, rounded=True), exact.values(texts))
        cap = max(_LEAST_FLOOR_NATS, _DTYPE_EXPLAINS * rounded)
        how = f"nothing is loaded; 16 bits explain {cap:.2g} nats"
        case = Case(exact, None, texts, given, cap, cap, how)
        self._noted(case)
        if case.wrong:
            yield self.diagnosed(case)
        self.floor = min(cap, max(_LEAST_FLOOR_NATS, case.off))

    def plant(self, name: str) -> Plant:
        """The adapter of a recipe, strong enough for this engine.

        Raises:
            CheckSkippedError: the model has no such modules, or no strength is enough.
        """
        if name not in self.ground.plantable:
            raise CheckSkippedError(f"the model has no module of this kind: {name}")
        effect = EFFECT_NATS
        while effect < TIMES_FLOOR * self.floor:
            # In steps, so that two runs over one model plant the same.
            effect *= 2
        try:
            return self.ground.plant(name, effect, self.floor)
        except UnsupportedModelError as error:
            raise CheckSkippedError(str(error)) from error

    def new_name(self, plant: Plant) -> str:
        """A name that was never used before."""
        return f"planted-{plant.name.replace('_', '-')}-{next(self._numbers)}"

    def load(self, name: str, plant: Plant) -> None:
        """Load an adapter.

        Raises:
            SubjectRaisedError: the engine raised.
        """
        self.caller.load(name, plant.folder)
        self.loaded[name] = plant
        self._was_loaded.append(plant)

    def unload(self, name: str) -> None:
        """Drop an adapter.

        Raises:
            SubjectRaisedError: the engine raised.
        """
        del self.loaded[name]
        self.caller.unload(name)

    @contextmanager
    def having(self, *plants: Plant) -> Iterator[list[str]]:
        """Adapters under names of their own, until the block is left.

        Raises:
            SubjectRaisedError: the engine raised.
        """
        names: list[str] = []
        try:
            for plant in plants:
                name = self.new_name(plant)
                self.load(name, plant)
                names.append(name)
            yield names
        except BaseException:
            # What failed first is the verdict.
            for name in names:
                if name in self.loaded:
                    with suppress(SubjectRaisedError):
                        self.unload(name)
            raise
        for name in names:
            if name in self.loaded:
                self.unload(name)

    def ask(self, texts: Sequence[Text], name: str | None) -> list[Given]:
        """What the engine gives for each text, one after another.

        Raises:
            SubjectRaisedError: it raised.
        """
        return [self.caller.logprobs(text, name) for text in texts]

    def case(
        self,
        name: str | None,
        texts: Sequence[Text],
        given: Sequence[Given],
        how: str,
        *,
        before: Plant | None = None,
        beside_others: bool = False,
    ) -> Case:
        """What was asked and came, with what it is judged by.

        Args:
            name: The adapter's name; None for the base.
            texts: What was asked.
            given: What came.
            how: What was done before, in words.
            before: The adapter that had the name before.
            beside_others: Whether others are in use too.
        """
        plant = None if name is None else self.loaded[name]
        floor = self.floor_of(plant)
        # Whatever is mixed up is the first, or one of those that were loaded last.
        likely = dict.fromkeys([*self._was_loaded[:1], *self._was_loaded[-3:]])
        others = [each for each in likely if each not in (plant, before)]
        return self._noted(
            Case(
                self.ground.exact,
                plant,
                texts,
                given,
                floor,
                WRONG_FROM * floor,
                how,
                others,
                before,
                beside_others,
            )
        )

    def _noted(self, case: Case) -> Case:
        """``case``, which is kept if none came nearer to being wrong."""
        if self.nearest is None or case.share > self.nearest.share:
            self.nearest = case
        return case

    def floor_of(self, plant: Plant | None) -> float:
        """What rounding explains with an adapter, root mean square, nats."""
        if plant is None:
            return self.floor
        return max(self.floor * plant.amplified, _LEAST_SHARE * plant.effect)

    def judged(self, case: Case, name: str | None) -> Findings:
        """What is wrong with values, if they are."""
        if case.wrong:
            yield self.diagnosed(case, name)

    def diagnosed(self, case: Case, name: str | None = None) -> AdapterFailure:
        """The failure that explains wrong values; asks again where none does."""
        failure = diagnosis(case)
        if not isinstance(failure, WrongValues) or not np.isfinite(failure.distance):
            return failure
        again = self.ask(case.texts[::-1], name)[::-1]
        off = [apart([one], [exact]) for one, exact in zip(again, case.expected, strict=True)]
        was = [apart([one], [exact]) for one, exact in zip(case.given, case.expected, strict=True)]
        # Noise aside, a text that is right at another time depends on what is asked around it.
        if any(
            one <= case.limit < 2 * case.limit < other for one, other in zip(off, was, strict=True)
        ):
            came = "values that are right when the same is asked in another order"
            return DependsOnBatch().showing(evidence_of(case, came))
        return failure

    @staticmethod
    def of_base(failure: AdapterFailure) -> AdapterFailure:
        """A failure of the base, whose values were right before."""
        if not isinstance(failure, WrongValues) or failure.evidence is None:
            return failure
        return BaseChanged().showing(failure.evidence)


def _distance(one: Sequence[Values], other: Sequence[Values]) -> float:
    return apart([values.logprobs for values in one], other)

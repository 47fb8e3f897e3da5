"""Which fault explains values that are wrong: the one whose own values are nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from forwardcache.conformance.adapter.failures import (
    AdapterFailure,
    AdapterIgnored,
    AdaptersMixed,
    BaseChanged,
    Evidence,
    NotTeacherForced,
    PartIgnored,
    StaleAfterReload,
    WrongScale,
    WrongValues,
)
from forwardcache.conformance.adapter.subject import Given
from forwardcache.hf.planting.exact import Exact, Factors, Text, Values
from forwardcache.hf.planting.plant import Plant

__all__ = ["Case", "apart", "diagnosis", "evidence_of"]

_GRID = (-2.0, -1.0, 0.0, 0.125, 0.25, 0.354, 0.5, 0.707, 1.414, 2.0, 2.828, 4.0, 8.0, 16.0, 32.0)
_STEPS = 4
_NO_OTHER_SCALE = 0.1
_CLEARLY = 0.5
_FEWEST, _MOST, _OFTENER, _ELSEWHERE = 0.2, 0.6, 3.0, 0.37
_NEAR = (0.002, 0.01, 0.03)
_ALIKE = 0.6


@dataclass(frozen=True)
class Case:
    """What was asked, and what came.

    Attributes:
        exact: The model.
        plant: The adapter that was asked for; None for the base.
        texts: What was asked.
        given: What came, a text each.
        floor: What rounding explains, root mean square, nats.
        limit: From where on values are wrong, nats.
        how: What was done before, in words.
        others: Adapters whose values may have come instead.
        before: The adapter that had the name before a reload.
        beside_others: Whether the base's values in place of the adapter's mean a mix-up.
    """

    exact: Exact
    plant: Plant | None
    texts: Sequence[Text]
    given: Sequence[Given]
    floor: float
    limit: float
    how: str
    others: Sequence[Plant] = ()
    before: Plant | None = None
    beside_others: bool = False

    def values(self, plant: Plant | None, factors: Factors | None = None) -> tuple[Values, ...]:
        """The exact values of the texts with an adapter, or with parts of one."""
        folder = None if plant is None else plant.folder
        return self.exact.values(self.texts, folder, factors or Factors())

    @property
    def expected(self) -> tuple[Values, ...]:
        """The exact values."""
        return self.values(self.plant)

    @property
    def off(self) -> float:
        """Root mean square from the exact values, nats; infinity where a value is none."""
        return apart(self.given, self.expected)

    @property
    def share(self) -> float:
        """How much of what is allowed the values are off: above 1 they are wrong."""
        return self.off / self.limit

    @property
    def wrong(self) -> bool:
        """Whether the values are not the exact ones."""
        return not self.off <= self.limit


@dataclass
class _Best:
    """The nearest explanation so far."""

    limit: float
    distance: float = float("inf")
    make: Callable[[], AdapterFailure] | None = None
    said: str = ""

    def consider(self, distance: float, make: Callable[[], AdapterFailure], said: str) -> None:
        if distance <= self.limit and distance < self.distance:
            self.distance, self.make, self.said = distance, make, said


def apart(given: Sequence[Given], values: Sequence[Values]) -> float:
    """Root mean square between what came and exact values, nats; infinity where one is none."""
    found = _rms(_gaps(given, values))
    return found if np.isfinite(found) else float("inf")


def _gaps(given: Sequence[Given], values: Sequence[Values]) -> Given:
    pairs = zip(given, values, strict=True)
    gaps: Given = np.concatenate([one - other.logprobs for one, other in pairs])
    return gaps


def diagnosis(case: Case) -> AdapterFailure:
    """The failure that explains wrong values best.

    Args:
        case: What was asked and came; its values are wrong.
    """
    off = case.off
    best = _Best(min(case.limit, _CLEARLY * off))
    for explained in (_instead, _scaled, _parts_scaled, _some_tokens):
        if np.isfinite(off) and best.make is None:
            explained(case, best)
    if best.make is None:
        failure: AdapterFailure = WrongValues(off, case.floor)
        return failure.showing(evidence_of(case, f"values {off:.3g} nats from these"))
    return best.make().showing(evidence_of(case, best.said))


def evidence_of(case: Case, came: str) -> Evidence:
    """What a failure rests on, with the text that is furthest off.

    Args:
        case: What was asked and came.
        came: What came, in words.
    """
    expected, base = case.expected, case.values(None)
    offs = [apart([one], [other]) for one, other in zip(case.given, expected, strict=True)]
    at = int(np.argmax(offs))
    return Evidence(
        planted=case.how if case.plant is None else f"{case.plant.words}; {case.how}",
        expected="the base's own values" if case.plant is None else "the adapter's exact values",
        came=came,
        floor=case.floor,
        tokens=case.texts[at][1:],
        wanted=expected[at].logprobs.tolist(),
        given=case.given[at].tolist(),
        base=base[at].logprobs.tolist(),
    )


def _instead(case: Case, best: _Best) -> None:
    """Other values that are at hand: the base's, other adapters', other tokens'."""
    if case.plant is None:
        for other in case.others:
            said = f"the values of the adapter {other.name}"
            changed = AdaptersMixed if case.beside_others else BaseChanged
            best.consider(apart(case.given, case.values(other)), changed, said)
    else:
        _base_instead(case, best)
        for other in case.others:
            said = f"the values of the adapter {other.name}"
            best.consider(apart(case.given, case.values(other)), AdaptersMixed, said)
    if case.before is not None:
        said = f"the values of {case.before.name}, which had the name before"
        best.consider(apart(case.given, case.values(case.before)), StaleAfterReload, said)
    for distance, said in _other_tokens(case):
        best.consider(distance, NotTeacherForced, said)


def _base_instead(case: Case, best: _Best) -> None:
    assert case.plant is not None
    sole = case.plant.recipe.sole
    distance = apart(case.given, case.values(None))
    if case.beside_others:
        best.consider(distance, AdaptersMixed, "the base's values")
    elif sole is None:
        best.consider(distance, AdapterIgnored, "the base's values")
    else:
        best.consider(distance, partial(PartIgnored, sole), "the base's values")


def _other_tokens(case: Case) -> Iterator[tuple[float, str]]:
    expected = case.expected
    for step, words in ((1, "the next token"), (-1, "the token before")):
        pairs = [_shifted(g, v.logprobs, step) for g, v in zip(case.given, expected, strict=True)]
        gaps = np.concatenate([one - other for one, other in pairs])
        yield _rms(gaps), f"the values of {words}"
    highest = np.concatenate([v.top[:, 0] for v in expected])
    given = np.concatenate(list(case.given))
    yield _rms(given - highest), "the values of the likeliest tokens"
    # A given token is often likely itself: its right value tells nothing of the wrong ones.
    off = ~(np.abs(_gaps(case.given, expected)) <= case.limit)
    tops = np.concatenate([v.top for v in expected])[off]
    if np.mean(off) >= _FEWEST and any(_sampled(given[off], tops, nats) for nats in _NEAR):
        yield case.limit * 0.99, "the values of tokens that were not given, but are likely"


def _sampled(given: Given, tops: Given, nats: float) -> bool:
    """Whether values are those of likely tokens, far oftener than by chance.

    Args:
        given: What came for tokens whose own values these are not, [n].
        tops: The exact values of the most likely tokens in their places, [n, top].
        nats: How near is near.
    """

    def share(values: Given) -> float:
        return float(np.mean(np.abs(values[:, None] - tops).min(axis=1) <= nats))

    by_chance = max(share(given - _ELSEWHERE), share(given + _ELSEWHERE))
    # Sampled tokens are among the likely ones as often as these are likely together.
    expected = float(np.exp(tops).sum(axis=1).mean())
    return share(given) >= max(_MOST * expected, _OFTENER * by_chance)


def _shifted(given: Given, exact: Given, step: int) -> tuple[Given, Given]:
    return (given[:-1], exact[1:]) if step > 0 else (given[1:], exact[:-1])


def _scaled(case: Case, best: _Best) -> None:
    """The adapter times a number, or without one of its parts."""
    if case.plant is None:
        return
    factor, distance = _fitted(case, frozenset())
    if abs(factor - 1) > _NO_OTHER_SCALE:
        said = f"the values of {factor:.3g} times the adapter"
        best.consider(distance, partial(WrongScale, factor), said)
    for part, without in _without_parts(case).items():
        said = f"the values of the adapter without {part}"
        best.consider(apart(case.given, without), partial(PartIgnored, part), said)
    if case.plant.recipe.options.get("lora_bias"):
        without = case.values(case.plant, Factors(bias=False))
        said = "the values of the adapter without its biases"
        best.consider(apart(case.given, without), partial(PartIgnored, "biases"), said)


def _without_parts(case: Case) -> dict[str, tuple[Values, ...]]:
    """The exact values without each part of the adapter."""
    assert case.plant is not None
    parts = case.plant.recipe.parts
    many = [Factors(modules=modules, these=0.0) for modules in parts.values()]
    values = case.exact.values_of_each(case.texts, case.plant.folder, many)
    return dict(zip(parts, values, strict=True))


def _parts_scaled(case: Case, best: _Best) -> None:
    """One part times a number: a pattern, a kind, a layer."""
    if case.plant is None:
        return
    for part, without in _without_parts(case).items():
        if abs(_likeness(case, without)) < _ALIKE:
            continue
        factor, distance = _fitted(case, case.plant.recipe.parts[part])
        if abs(factor - 1) > _NO_OTHER_SCALE:
            said = f"the values of the adapter with {part} times {factor:.3g}"
            best.consider(distance, partial(WrongScale, factor, part), said)


def _likeness(case: Case, without: Sequence[Values]) -> float:
    """The cosine between what is wrong and what a part does; -1 or 1 where it is all of it."""
    wrong = _gaps(case.given, case.expected)
    part = _gaps([values.logprobs for values in without], case.expected)
    size = float(np.linalg.norm(wrong) * np.linalg.norm(part))
    return float(wrong @ part) / size if size else 0.0


def _fitted(case: Case, modules: frozenset[str]) -> tuple[float, float]:
    """The factor on some modules (on all, if none) that comes nearest, and how near."""
    assert case.plant is not None
    folder = case.plant.folder

    def times(factor: float) -> Factors:
        return Factors(modules=modules, these=factor) if modules else Factors(all=factor)

    def at(factor: float) -> tuple[Values, ...]:
        return case.exact.values(case.texts, folder, times(factor), keep=False)

    grid = case.exact.values_of_each(case.texts, folder, [times(factor) for factor in _GRID])
    tried = [(apart(case.given, each), factor) for each, factor in zip(grid, _GRID, strict=True)]
    distance, factor = min(tried)
    if distance > _CLEARLY * case.off:
        # Not on the way to anything.
        return factor, distance
    for _ in range(_STEPS):
        if distance <= case.limit / 2:
            break
        here, step = at(factor), 0.02 * max(1.0, abs(factor))
        slope = _gaps([values.logprobs for values in at(factor + step)], here) / step
        factor += float(_gaps(case.given, here) @ slope / max(float(slope @ slope), 1e-30))
        distance = apart(case.given, at(factor))
        tried.append((distance, factor))
    distance, factor = min(tried)
    return factor, distance


def _some_tokens(case: Case, best: _Best) -> None:
    """The adapter at the first tokens only, or not at them."""
    if case.plant is None:
        return
    base, adapted = case.values(None), case.expected
    for instead, words in ((adapted, "tokens from {} on"), (base, "tokens before {}")):
        runs = [_run(g, v.logprobs, case.limit) for g, v in zip(case.given, instead, strict=True)]
        # A token beyond may look alike by chance, so the shortest says it, or the one before.
        for run in {min(runs), min(runs) - 1}:
            if not 0 < run < max(map(len, case.given)):
                continue
            factors = Factors(first=run) if instead is adapted else Factors(after=run)
            part = words.format(run)
            said = f"the values of the adapter without its effect at {part}"
            values = case.exact.values(case.texts, case.plant.folder, factors, keep=False)
            best.consider(apart(case.given, values), partial(PartIgnored, part), said)


def _run(given: Given, exact: Given, limit: float) -> int:
    """How many values from the first on are the exact ones."""
    near = np.abs(given - exact) <= limit
    return len(near) if near.all() else int(np.argmin(near))


def _rms(gaps: Given) -> float:
    return float(np.sqrt(np.mean(gaps**2)))

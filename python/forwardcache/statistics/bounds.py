"""A verdict for machines: does a view keep to the bounds that were set?

Bounds are on point estimates, and each line says so; what texts can't decide is said to be
undecided, and is never taken for kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forwardcache.errors import InvalidInputError
from forwardcache.statistics.figures import Figures
from forwardcache.statistics.floor import FloorVerdict
from forwardcache.statistics.intervals import FEWEST_TEXTS, Interval
from forwardcache.statistics.words import no_number

State = Literal["ok", "broken", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a view is held to; what is None isn't asked.

    Attributes:
        expect: ``"changed"`` or ``"unchanged"``: distinguishable from rounding, or not.
        max_kl: Largest mean KL, nats a position.
        max_ppl_ratio: Largest ratio of perplexities, view to reference.
        min_same_top: Smallest share of positions with the same most likely token.

    Raises:
        InvalidInputError: a bound that nothing could be held to.
    """

    expect: str | None = None
    max_kl: float | None = None
    max_ppl_ratio: float | None = None
    min_same_top: float | None = None

    def __post_init__(self) -> None:
        if self.expect not in (None, "changed", "unchanged"):
            raise InvalidInputError(f"expect is {self.expect!r}, allowed are changed and unchanged")
        _check("max_kl", self.max_kl, 0.0, math.inf)
        _check("max_ppl_ratio", self.max_ppl_ratio, 0.0, math.inf)
        _check("min_same_top", self.min_same_top, 0.0, 1.0)


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not (math.isfinite(value) and least <= value <= most):
        allowed = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise InvalidInputError(f"{name} is {value}, allowed is a number {allowed}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether one bound holds.

    Attributes:
        bound: Its name: ``expect``, ``max_kl``, ``max_ppl_ratio`` or ``min_same_top``.
        state: ``"ok"``, ``"broken"``, or ``"undecided"`` where the texts don't tell.
        line: One line with the figure, the bound and the interval.
    """

    bound: str
    state: State
    line: str


def judge(
    view: str,
    figures: Figures,
    bounds: Bounds,
    *,
    floor: FloorVerdict | None = None,
    left_out: int = 0,
) -> list[Outcome]:
    """What each bound comes to for one view.

    ``expect="unchanged"`` needs 20 distinct texts; with ``max_kl`` also the interval's upper end
    below that. Both are undecided otherwise, unless the point estimate is above ``max_kl``. With a
    position that is no number nothing is kept: it is in no figure, and may be as far as can be.

    Args:
        view: Its id, for the lines.
        figures: Of all its positions.
        bounds: What is asked.
        floor: Its verdict against rounding, which ``expect`` needs.
        left_out: Positions that count and are in none of ``figures``, for being no number.

    Returns:
        One for each bound that is asked, in the order of ``Bounds``.
    """
    found = []
    if bounds.expect is not None:
        found.append(_expected(view, figures, bounds.expect, floor))
    if bounds.max_kl is not None:
        found.append(_kl(view, figures, bounds.max_kl, bounds.expect))
    if bounds.max_ppl_ratio is not None:
        ratio = _Estimate("perplexity ratio", figures.ppl_ratio, figures.ppl_ratio_interval)
        found.append(ratio.held_to("max_ppl_ratio", bounds.max_ppl_ratio, view))
    if bounds.min_same_top is not None:
        share = _Estimate("share of same top", figures.same_top, figures.same_top_interval)
        found.append(share.held_to("min_same_top", bounds.min_same_top, view))
    if not left_out:
        return found
    why = no_number(left_out, figures.positions + left_out)
    return [_in_doubt(outcome, why) for outcome in found]


def _in_doubt(outcome: Outcome, why: str) -> Outcome:
    """What is broken without some positions is broken; what is kept without them isn't known."""
    state = "undecided" if outcome.state == "ok" else outcome.state
    return replace(outcome, state=state, line=f"{outcome.line}; {why}")


def worst(outcomes: Sequence[Outcome]) -> State:
    """The state of all together: broken before undecided before ok.

    Args:
        outcomes: Of one view, or of several.
    """
    states = {outcome.state for outcome in outcomes}
    if "broken" in states:
        return "broken"
    return "undecided" if "undecided" in states else "ok"


def _expected(view: str, figures: Figures, expect: str, floor: FloorVerdict | None) -> Outcome:
    if floor is None:
        line = f"{view}: expected {expect}; no floor was measured, so that can't be judged"
        return Outcome("expect", "undecided", line)
    said = f"{view}: expected {expect}; {floor.words}"
    measured = f"KL {_nats(floor.view_mean)}, floor {_nats(floor.mean)}"
    if floor.excess.is_known:
        measured += f", above it {floor.excess}"
    few = min(figures.texts, floor.excess.texts)
    if floor.distinguishable is None or (expect == "unchanged" and few < FEWEST_TEXTS):
        return Outcome("expect", "undecided", f"{said} ({measured})")
    is_met = floor.distinguishable == (expect == "changed")
    return Outcome("expect", "ok" if is_met else "broken", f"{said} ({measured})")


def _kl(view: str, figures: Figures, bound: float, expect: str | None) -> Outcome:
    kl = _Estimate("mean KL", figures.kl.mean, figures.kl.interval, " nats")
    found = kl.held_to("max_kl", bound, view)
    if expect != "unchanged" or found.state != "ok" or kl.interval.high < bound:
        return found
    why = "; the interval's upper end isn't below the bound, as unchanged asks"
    return Outcome("max_kl", "undecided", found.line + why)


@dataclass(frozen=True, slots=True)
class _Estimate:
    """A figure in words, its value and interval, and its unit with a space before it."""

    words: str
    value: float
    interval: Interval
    unit: str = ""

    def held_to(self, name: str, bound: float, view: str) -> Outcome:
        """Whether it is at most ``bound``; at least, where the bound's name says so."""
        if math.isnan(self.value):
            return Outcome(name, "undecided", f"{view}: {self.words} isn't known, for {name}")
        is_least = name.startswith("min_")
        is_broken = self.value < bound if is_least else self.value > bound
        relation = ("below" if is_least else "above") if is_broken else "within"
        line = (
            f"{view}: {self.words} {self.value:.4g}{self.unit} is {relation} "
            f"--{name.replace('_', '-')} {bound:g} (point estimate; {self.interval})"
        )
        return Outcome(name, "broken" if is_broken else "ok", line)


def _nats(value: float) -> str:
    return f"{value:.3g} nats"

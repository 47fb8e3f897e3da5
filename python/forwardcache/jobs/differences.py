"""How far each view is from base: what the rows come to, before anybody shows it.

A divergence has one size; a difference in log-probability has a sign, so that its mean may be near
0 where the view moved every prompt. Sizes are therefore means of absolute differences there, and it
is sizes that are compared with those of null views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from forwardcache.jobs.job import Job, Totals
from forwardcache.jobs.views import View
from forwardcache.operation import Figure
from forwardcache.operations import operation
from forwardcache.statistics import (
    NullComparison,
    ValueFigures,
    Values,
    value_figures,
)
from forwardcache.statistics.values import place_among

if TYPE_CHECKING:
    from forwardcache.hf.scoring.noise import NoiseFloor

_ROUNDING_NATS = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one view is from base over all prompts.

    Attributes:
        view: The view.
        figures: What KL(base ‖ view) of the prompts comes to, or the difference in log-probability.
    """

    view: View
    figures: ValueFigures


@dataclass(frozen=True, slots=True)
class Comparison:
    """The views of a run against base.

    Attributes:
        op: The scoring operation.
        found: One for each view but base, in the order asked for.
        floor: How far base is from itself in other batches, where that was measured.
        norms: By the view's name: the norm of what it adds to the weights; None where unknown.
        is_bound: Whether divergences are lower bounds: over some tokens and one bucket.
        fewest_tokens: The fewest tokens that one of them was computed over.
        most_outside: The largest probability of base outside of them.
    """

    op: str
    found: list[Difference]
    floor: NoiseFloor | None = None
    norms: Mapping[str, float | None] = field(default_factory=dict)
    is_bound: bool = False
    fewest_tokens: int | None = None
    most_outside: float = 0.0

    @property
    def is_signed(self) -> bool:
        """Whether values are differences with a sign, not divergences."""
        return self.figure.is_signed

    @property
    def figure(self) -> Figure:
        """How values are compared with base's."""
        return operation(self.op).figure

    @property
    def field(self) -> str:
        """The field of a row that has it."""
        return self.figure.nats[-1] if self.is_bound else self.figure.nats[0]

    @property
    def nulls(self) -> list[Difference]:
        """The random adapters."""
        return [one for one in self.found if one.view.is_null]

    def among_nulls(self, one: Difference) -> NullComparison | None:
        """Where the adapter stands among random ones of its norm.

        None for other views, and without such nulls: one of another norm says nothing about a
        random change of the adapter's.
        """
        nulls = [
            null
            for null in self.nulls
            if null.view.matched and null.view.lam == 1.0 and null.view.adapter == one.view.adapter
        ]
        if one.view.kind != "ft":
            return None
        floor = 0.0 if self.floor is None else self.floor.mean_nats
        return place_among(one.figures, [null.figures for null in nulls], floor=floor)

    def is_within_floor(self, one: Difference) -> bool:
        """Whether other batches move base as far."""
        return self.floor is not None and one.figures.size <= self.floor.mean_nats

    def has_rounded_below_zero(self) -> bool:
        """Whether a divergence is negative by more than float64 explains."""
        return not self.is_signed and any(one.figures.least < -_ROUNDING_NATS for one in self.found)


class Found(Protocol):
    """What a job found, but for the values themselves; as of ``jobs.job.Totals``."""

    @property
    def figure(self) -> Figure:
        """How values are compared with base's."""

    @property
    def fields(self) -> set[str]:
        """In which of the figure's fields they are."""

    @property
    def fewest_tokens(self) -> int | None:
        """The fewest tokens that a divergence was computed over; None where all were."""

    @property
    def most_outside(self) -> float:
        """The largest probability of base outside of them."""


def comparison_of(
    job: Job,
    totals: Totals,
    *,
    floor: NoiseFloor | None = None,
    norms: Mapping[str, float | None] | None = None,
) -> Comparison:
    """What the rows of ``job`` come to."""
    values = _values_of(totals, job.texts())
    return compared(job.op, job.views, values, totals, floor=floor, norms=norms)


def compared(
    op: str,
    views: Sequence[View],
    values: Mapping[str, Values],
    found: Found,
    *,
    floor: NoiseFloor | None = None,
    norms: Mapping[str, float | None] | None = None,
) -> Comparison:
    """What differences from base come to.

    Args:
        op: The scoring operation.
        views: Those that were scored.
        values: By view: the differences, and what each is of; none of base.
        found: How they were computed.
        floor: As of ``Comparison``.
        norms: As of ``Comparison``.
    """
    return Comparison(
        op,
        _differences(views, values, is_signed=found.figure.is_signed),
        floor,
        norms or {},
        is_bound=any(map(found.figure.is_bound, found.fields)),
        fewest_tokens=found.fewest_tokens,
        most_outside=found.most_outside,
    )


def differences(
    views: Sequence[View], totals: Totals, *, texts: Mapping[int, str] | None = None
) -> list[Difference]:
    """One for every view but base, in the order of ``views``.

    Args:
        views: Those that were scored.
        totals: What was found.
        texts: By line: what a prompt counts as; equal ones count once. None: unknown, and there is
            no interval.
    """
    return _differences(views, _values_of(totals, texts), is_signed=totals.figure.is_signed)


def _differences(
    views: Sequence[View], values: Mapping[str, Values], *, is_signed: bool
) -> list[Difference]:
    with_values = [view for view in views if view.name in values]
    figures = value_figures([values[view.name] for view in with_values], is_signed=is_signed)
    return [Difference(view, each) for view, each in zip(with_values, figures, strict=True)]


def _values_of(totals: Totals, texts: Mapping[int, str] | None) -> dict[str, Values]:
    return {
        view: Values(found, _texts_of(totals.lines.get(view), texts))
        for view, found in totals.differences.items()
        if found
    }


def _texts_of(lines: Sequence[int] | None, texts: Mapping[int, str] | None) -> Sequence[str] | None:
    return None if lines is None or texts is None else [texts[line] for line in lines]


def update_norms(backend: Any, views: Sequence[View]) -> dict[str, float | None]:
    """By view: the norm of what it adds to the weights, where null views are to be held to it."""
    if not any(view.is_null for view in views):
        return {}
    norms: dict[str, float | None] = {}
    for view in views:
        with view.of(backend) as entered:
            norms[view.name] = entered.update_norm()
    return norms

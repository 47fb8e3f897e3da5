"""Other models as views of a result, and the chain that they are stages of."""

from __future__ import annotations

from collections.abc import Sequence

from forwardcache.jobs.diff.found import NUMBERS
from forwardcache.jobs.diff.notes import without_number
from forwardcache.jobs.diff.others import OtherFound, Others, stages_of
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.statistics import (
    Bounds,
    Outcome,
    Stage,
    Summary,
    ViewDifference,
    against_floor,
    chained,
    judge,
    summaries,
)


def other_view(one: OtherFound, summary: Summary, bounds: Bounds) -> ViewDifference:
    """What was found of another model; nothing random is of its kind.

    Args:
        one: What was found.
        summary: What its positions come to.
        bounds: What it is held to.
    """
    name, positions = one.model.name, one.positions
    verdict = None if one.floor is None else against_floor(positions, one.floor)
    outcomes = judge(name, summary.figures, bounds, floor=verdict, left_out=summary.left_out)
    if (why := without_number(name, positions)) is not None:
        outcomes = [Outcome(NUMBERS, "undecided", why), *outcomes]
    return ViewDifference(
        view=name,
        positions=positions,
        summary=summary,
        floor=verdict,
        moved=one.moved,
        outcomes=tuple(outcomes),
    )


def chain_of(plan: DiffPlan, views: Sequence[ViewDifference], others: Others) -> tuple[Stage, ...]:
    """The stages behind the reference: views of the model itself, then other models.

    Args:
        plan: What was compared.
        views: All that were.
        others: What was found of other models and of neighbours.
    """
    stages = {*(view.name for view in stages_of(plan)), *others.found}
    links = {name: positions for name, (_, positions) in others.links.items()}
    figures = {name: one.figures for name, one in summaries(links).items()} if links else {}
    return chained(
        plan.reference.name,
        {view.view: view.summary.figures for view in views if view.view in stages},
        {name: (others.links[name][0], one) for name, one in figures.items()},
    )

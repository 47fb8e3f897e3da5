"""Is a difference more than what random changes of the same weight norm make?

Each null is a random adapter with the trained one's norm in each module, read over the floor's
texts. A view that is the adapter times a number is held against nulls of that times the norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forwardcache.errors import InvalidInputError, UnsupportedModelError
from forwardcache.jobs.diff.compared import differences, first_errors
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.views import View
from forwardcache.statistics import (
    Floor,
    NullComparison,
    Positions,
    adjusted,
    against_nulls,
)


@dataclass(frozen=True, slots=True)
class Nulls:
    """The nulls of a run.

    Attributes:
        of_scale: By factor on the norm: the positions of each null, by its name.
        why_none: Why there is none although some were asked for.
    """

    of_scale: Mapping[float, Mapping[str, Positions]] = field(default_factory=dict)
    why_none: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """A view's place among nulls, p-values adjusted.

    Attributes:
        whole: Over all positions.
        of_group: By group.
    """

    whole: NullComparison
    of_group: Mapping[str, NullComparison]


def scales(plan: DiffPlan) -> list[float]:
    """Factors on the norm that the views of a plan need nulls of.

    Args:
        plan: What is compared.
    """
    return list(dict.fromkeys(abs(view.lam) for view in plan.views if has_nulls(plan, view)))


def has_nulls(plan: DiffPlan, view: View) -> bool:
    """Whether a view is held against nulls: the adapter, times a number, beside base.

    Args:
        plan: What is compared.
        view: One of its views.
    """
    return plan.reference.kind == "base" and view.kind in {"ft", "scaled"}


def seeds(count: int) -> list[int]:
    """The seeds of so many nulls.

    Args:
        count: How many.
    """
    return list(range(count))


def why_no_nulls(backend: Any, plan: DiffPlan, count: int) -> str | None:
    """Why no view is held against matched nulls; None where it is, or none were asked for.

    Args:
        backend: The ``HFBackend``; it is asked, and nothing is run.
        plan: What is compared.
        count: How many were asked for.
    """
    if not count:
        return None
    if plan.reference.kind != "base":
        return "they are changes of base, which is not the reference"
    if not scales(plan):
        return "--views names neither ft nor scaled, which alone are held against them"
    null = View("null", matched=True)
    try:
        differences(backend, plan, [null], [])
    except UnsupportedModelError as error:
        return _reason(null, error)
    return None


def _reason(null: View, error: UnsupportedModelError) -> str:
    """Without the name of a view that nobody asked for."""
    return str(error).removeprefix(f"view {null.name} can't be exact here: ")


def compared_nulls(backend: Any, plan: DiffPlan, count: int, positions: Sequence[int]) -> Nulls:
    """Compare nulls with the reference.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.
        count: How many a factor.
        positions: The texts, by their position in the plan.

    Raises:
        ForwardCacheError: a text can't be run and isn't to be skipped.
    """
    if not count or plan.why_no_nulls is not None:
        return Nulls(why_none=plan.why_no_nulls)
    found: dict[float, dict[str, Positions]] = {}
    for scale in scales(plan):
        views = [View("null", seed=seed, lam=scale, matched=True) for seed in seeds(count)]
        try:
            of_view = differences(backend, plan, views, positions)
        except UnsupportedModelError as error:
            return Nulls(why_none=_reason(views[0], error))
        failed = first_errors(of_view)
        for at, why in failed.items():
            plan.skips(positions[at], why)
        found[scale] = {
            name: Positions.of(
                [item for at, item in enumerate(items) if at not in failed],
                skip_first=plan.skip_first,
            )
            for name, items in of_view.items()
        }
    return Nulls(found)


def places(
    plan: DiffPlan,
    nulls: Nulls,
    positions: Mapping[str, Positions],
    groups: Sequence[str] | None,
    floor: Floor | None,
) -> dict[str, Places]:
    """By name of each view that is held against nulls: its place among them.

    Args:
        plan: What was compared.
        nulls: The nulls.
        positions: By name of each view.
        groups: The group of each item; None without any.
        floor: What rounding makes.

    Returns:
        None of a view, or a group, of which no text has a number in the view and in all nulls.
    """
    found: dict[tuple[str, str | None], NullComparison] = {}
    for view in plan.views:
        of_seed = nulls.of_scale.get(abs(view.lam)) if has_nulls(plan, view) else None
        if not of_seed:
            continue
        mine, theirs = positions[view.name], list(of_seed.values())
        if (whole := _place(mine, theirs, floor)) is None:
            continue
        found[view.name, None] = whole
        for group, part in _grouped(mine, groups).items():
            one = _place(part, [_of_texts(null, part) for null in theirs], floor)
            if one is not None:
                found[view.name, group] = one
    known = adjusted(found)
    return {
        name: Places(
            whole,
            {group: one for (of, group), one in known.items() if of == name and group is not None},
        )
        for (name, part_of), whole in known.items()
        if part_of is None
    }


def _place(
    mine: Positions, theirs: Sequence[Positions], floor: Floor | None
) -> NullComparison | None:
    """None where no text has a position in all of them: a null may be no number anywhere."""
    try:
        return against_nulls(mine, theirs, floor=floor)
    except InvalidInputError:
        return None


def _grouped(positions: Positions, groups: Sequence[str] | None) -> dict[str, Positions]:
    """The positions of each group that has any."""
    names = np.array(groups or [], dtype=object)
    parts = {name: positions.of_items(names == name) for name in dict.fromkeys(groups or [])}
    return {name: part for name, part in parts.items() if len(part)}


def _of_texts(null: Positions, part: Positions) -> Positions:
    """The positions of a null in the texts that ``part`` has."""
    wanted = set(part.names)
    items, first = np.unique(null.item, return_index=True)
    is_wanted = np.zeros(int(items.max(initial=-1)) + 1, dtype=np.bool_)
    is_wanted[items] = [null.names[text] in wanted for text in null.text[first].tolist()]
    return null.of_items(is_wanted)

"""Is a difference more than what random changes of the same weight norm make?

Each null is a random adapter with the trained one's norm in each module, read over the floor's
texts. A view that is an adapter times a number is held against nulls of that adapter at that times
the norm, and against no other adapter's. Of a null each text's mean is kept, and nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from forwardcache.errors import InvalidInputError, UnsupportedModelError
from forwardcache.jobs.diff.compared import differences, first_errors
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.views import View
from forwardcache.statistics import (
    Floor,
    NullComparison,
    Positions,
    adjusted,
    against_nulls,
)
from forwardcache.statistics.nulls import TextMeans

Scale = tuple[str | None, float]
"""An adapter's name, and the factor on its norm."""

KEPT = "nulls"
"""What nulls are noted as."""


@dataclass(frozen=True, slots=True)
class Nulls:
    """The nulls of a run.

    Attributes:
        of_scale: By adapter and factor on its norm: each text's mean KL in each null, by its name.
        why_none: Why there is none although some were asked for.
    """

    of_scale: Mapping[Scale, Mapping[str, TextMeans]] = field(default_factory=dict)
    why_none: str | None = None

    def of(self, view: View) -> Mapping[str, TextMeans]:
        """The nulls that a view is held against; empty without any.

        Args:
            view: The adapter, times a number.
        """
        return self.of_scale.get(scale_of(view), {})


@dataclass(frozen=True, slots=True)
class Places:
    """A view's place among nulls, p-values adjusted.

    Attributes:
        whole: Over all positions.
        of_group: By group.
    """

    whole: NullComparison
    of_group: Mapping[str, NullComparison]


def scale_of(view: View) -> Scale:
    """Whose nulls a view needs, and at what factor on the norm.

    Args:
        view: The adapter, times a number.
    """
    return view.adapter, abs(view.lam)


def scales(plan: DiffPlan) -> list[Scale]:
    """What the views of a plan need nulls of, an adapter's next to each other.

    Args:
        plan: What is compared.
    """
    needed = dict.fromkeys(scale_of(view) for view in plan.views if has_nulls(plan, view))
    order = list(dict.fromkeys(adapter for adapter, _ in needed))
    return sorted(needed, key=lambda scale: order.index(scale[0]))


def has_nulls(plan: DiffPlan, view: View) -> bool:
    """Whether a view is held against nulls: the adapter, times a number, beside base.

    Args:
        plan: What is compared.
        view: One of its views.
    """
    return (
        plan.reference.kind == "base"
        and view.kind in {"ft", "scaled"}
        and view.adapter not in plan.without_nulls
    )


def seeds(count: int) -> list[int]:
    """The seeds of so many nulls.

    Args:
        count: How many.
    """
    return list(range(count))


def with_nulls(backend: Any, plan: DiffPlan, count: int) -> DiffPlan:
    """The plan, with which adapters have no matched nulls although they were asked for, and why.

    Args:
        backend: The ``HFBackend``; it is asked, and nothing is run.
        plan: What is compared.
        count: How many nulls were asked for.
    """
    if not count:
        return plan
    if not plan.views:
        return replace(plan, why_no_nulls="other models have none")
    if plan.reference.kind != "base":
        return replace(plan, why_no_nulls="they are changes of base, which is not the reference")
    asked = dict.fromkeys(adapter for adapter, _ in scales(plan))
    if not asked:
        why = "--views names neither ft nor scaled, which alone are held against them"
        return replace(plan, why_no_nulls=why)
    refused = {}
    for adapter in asked:
        null = View("null", matched=True, adapter=adapter)
        try:
            differences(backend, plan, [null], [])
        except UnsupportedModelError as error:
            refused[adapter] = _reason(null, error)
    if len(refused) == len(asked):
        return replace(plan, why_no_nulls=next(iter(refused.values())))
    return replace(plan, without_nulls=refused)


def _reason(null: View, error: UnsupportedModelError) -> str:
    """Without the name of a view that nobody asked for."""
    return str(error).removeprefix(f"view {null.name} can't be exact here: ")


def compared_nulls(
    backend: Any,
    plan: DiffPlan,
    count: int,
    positions: Sequence[int],
    *,
    names: Sequence[Hashable] = (),
    kept: Kept | None = None,
) -> Nulls:
    """Compare nulls with the reference, an adapter's one after another.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.
        count: How many a factor.
        positions: The texts, by their position in the plan.
        names: What ``Positions`` calls these texts, where nulls may be known from an earlier run.
        kept: What is known of them, and where more is noted; None keeps nothing.

    Raises:
        ForwardCacheError: a text can't be run and isn't to be skipped.
        MachineError: what was found can't be noted.
    """
    if not count or plan.why_no_nulls is not None:
        return Nulls(why_none=plan.why_no_nulls)
    kept = Kept() if kept is None else kept
    called = {_digest(name): name for name in names}
    found: dict[Scale, dict[str, TextMeans]] = {}
    for scale in scales(plan):
        if are_known(kept, scale, count):
            noted = kept.find(KEPT, _noted_as(scale))
            found[scale] = {name: _from_noted(each, called) for name, each in noted.items()}
            continue
        views = _views(scale, count)
        try:
            found[scale] = _means(backend, plan, views, positions)
        except UnsupportedModelError as error:
            return Nulls(why_none=_reason(views[0], error))
        noted = {name: _as_noted(each) for name, each in found[scale].items()}
        kept.note(KEPT, _noted_as(scale), noted)
    return Nulls(found)


def are_known(kept: Kept, scale: Scale, count: int) -> bool:
    """Whether nulls were compared before: all of them, since some are run in other batches.

    Args:
        kept: What is known.
        scale: Whose nulls, and at what factor.
        count: How many were asked for.
    """
    noted = kept.find(KEPT, _noted_as(scale)) or {}
    return bool(noted.keys() == {view.name for view in _views(scale, count)})


def _views(scale: Scale, count: int) -> list[View]:
    adapter, factor = scale
    return [
        View("null", seed=seed, lam=factor, matched=True, adapter=adapter) for seed in seeds(count)
    ]


def _noted_as(scale: Scale) -> str:
    adapter, factor = scale
    return f"{factor!r}:{adapter or ''}"


def _means(
    backend: Any, plan: DiffPlan, views: Sequence[View], positions: Sequence[int]
) -> dict[str, TextMeans]:
    """By name of a null: each text's mean KL."""
    of_view = differences(backend, plan, views, positions)
    failed = first_errors(of_view)
    for at, why in failed.items():
        plan.skips(positions[at], why)
    found: dict[str, TextMeans] = {}
    for name, items in of_view.items():
        good = [item for at, item in enumerate(items) if at not in failed]
        one = Positions.of(good, skip_first=plan.skip_first)
        found[name] = one.means_by_text(one.kl)
    return found


def _digest(name: Any) -> str:
    return blake2b(name, digest_size=16).hexdigest()


def _as_noted(means: TextMeans) -> dict[str, list[float]]:
    return {_digest(name): [*mean] for name, mean in means.items()}


def _from_noted(noted: Mapping[str, Any], called: Mapping[str, Hashable]) -> TextMeans:
    """Texts that no view has are of no use, and none knows their names."""
    return {
        called[digest]: (float(mean), int(count))
        for digest, (mean, count) in noted.items()
        if digest in called
    }


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
        of_seed = nulls.of(view) if has_nulls(plan, view) else None
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
    mine: Positions, theirs: Sequence[TextMeans], floor: Floor | None
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


def _of_texts(null: TextMeans, part: Positions) -> TextMeans:
    """The means of a null in the texts that ``part`` has."""
    return {name: null[name] for name in part.names if name in null}

"""What a reader has to know of a run beside its figures, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forwardcache.jobs.diff.measured import MeasuredFloor
from forwardcache.jobs.diff.nulls import Nulls, Places, has_nulls
from forwardcache.jobs.diff.others import Others
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.differences import update_norms
from forwardcache.statistics import Positions, ViewDifference

_PRECISE = frozenset({"float32", "float64"})


def notes_on_texts(plan: DiffPlan, positions: Positions) -> list[str]:
    """What of the texts counts, and how often.

    Args:
        plan: What was compared.
        positions: Of any view.
    """
    found = []
    items = len(np.unique(positions.item))
    if items > positions.texts:
        ones = (
            "is 1 different one"
            if positions.texts == 1
            else (f"are {positions.texts:,} different ones")
        )
        found.append(
            f"Equal texts count as one in an interval, and each of them in a mean: of {items:,} "
            f"there {ones}."
        )
    if plan.skip_first:
        found.append(_on_first(plan))
    if both := sum("text" in prompt.carried for prompt in plan.prompts):
        lines = "1 line has" if both == 1 else f"{both:,} lines have"
        found.append(f'{lines} both "prompt" and "text": "prompt" was read, "text" was carried.')
    return found


def _on_first(plan: DiffPlan) -> str:
    """What ``--skip-first`` leaves out."""
    first = "position" if plan.skip_first == 1 else f"{plan.skip_first:,} positions"
    gone = sum(length <= plan.skip_first for length in plan.lengths)
    said = f"The first {first} of each text {'is' if plan.skip_first == 1 else 'are'} left out"
    if not gone:
        return f"{said}."
    texts = (
        "1 text has no other, and counts"
        if gone == 1
        else f"{gone:,} texts have no other, and count"
    )
    return f"{said}; {texts} nowhere."


def without_number(name: str, positions: Positions) -> str | None:
    """That a view gives no number at any position; None where it gives one.

    Args:
        name: The view's.
        positions: Its own.
    """
    if len(positions) or not positions.left_out:
        return None
    where = f"all {positions.left_out:,} positions" if positions.left_out > 1 else "the 1 position"
    return f"{name} gives NaN at {where} that count; is it sound in the model's dtype?"


def notes_on_numbers(views: Sequence[ViewDifference]) -> list[str]:
    """Which views give no number at any position.

    Args:
        views: All that were compared.
    """
    found = [without_number(view.view, view.positions) for view in views]
    return [why for why in found if why is not None]


def notes_on_floor(measured: MeasuredFloor, dtype: str) -> list[str]:
    """Why there is no floor, and what half precision does to the figures.

    Args:
        measured: The floor.
        dtype: Of the model.
    """
    found = []
    if measured.why_none is not None:
        found.append(f"What rounding alone makes is not known: {measured.why_none}.")
    if dtype not in _PRECISE:
        found.append(
            f"In {dtype} the two most likely tokens are often equally likely, and rounding alone "
            "changes which is the first: hold the share of the same top token against rounding's."
        )
    return found


def notes_on_nulls(plan: DiffPlan, nulls: Nulls, places: Mapping[str, Places]) -> list[str]:
    """What a null is and isn't, or why there is none.

    Args:
        plan: What was compared.
        nulls: The nulls.
        places: Of the views among them.
    """
    if nulls.why_none is not None:
        return [f"There are no matched nulls: {nulls.why_none}."]
    asked = [view.name for view in plan.views if nulls.of_scale and has_nulls(plan, view)]
    without_place = [
        f"{name} has no place among nulls: no text has a number in it and in all of them."
        for name in asked
        if name not in places
    ]
    without_place += [
        f"{adapter} has no matched nulls: {why}." for adapter, why in plan.without_nulls.items()
    ]
    if not places:
        return without_place
    found = [
        *without_place,
        "A null has the view's weight norm in each module, but not its spectrum: noise spreads the "
        "norm over all of the adapter's rank, and training doesn't.",
    ]
    if plan.groups is not None:
        known = set(plan.groups)
        without = min(len(known - one.of_group.keys()) for one in places.values())
        if without:
            have = "has" if without == 1 else "have"
            found.append(
                f"{without:,} of {len(known):,} groups {have} no text among those of the nulls, "
                "and no place."
            )
    return found


def notes_on_others(others: Others | None) -> list[str]:
    """What a reader has to know of other models, and which of them there is nothing of.

    Args:
        others: What was found of them; None where none was asked for.
    """
    if others is None:
        return []
    found = [note for one in others.found.values() for note in one.notes]
    for name, one in others.found.items():
        if one.skipped:
            count = len(one.skipped)
            texts = "1 text" if count == 1 else f"{count:,} texts"
            found.append(
                f"{name} has nothing of {texts}; the first, line {one.skipped[0].line}: "
                f"{one.skipped[0].reason}."
            )
    found += [f"{name} was not compared: {why}." for name, why in others.failed.items()]
    return found


def notes_on_unmatched(backend: Any, plan: DiffPlan) -> list[str]:
    """What the random views that were asked for are, with the norms that views add to the weights.

    Args:
        backend: The ``HFBackend``.
        plan: What was compared.
    """
    unmatched = [view for view in plan.views if view.is_null and not view.matched]
    if not unmatched:
        return []
    norms = update_norms(backend, plan.views)
    others = [view.name for view in plan.views if view not in unmatched]
    beside = f", beside {_norms(others, norms)}" if others else ""
    return [
        f"{view.name} is a random adapter of deviation {view.deviation:g}, not of the adapter's "
        f"norm; norm added to the weights: {_norms([view.name], norms)}{beside}."
        for view in unmatched
    ]


def _norms(names: Sequence[str], norms: Mapping[str, float | None]) -> str:
    def text(norm: float | None) -> str:
        return "unknown" if norm is None else f"{norm:.3g}"

    return ", ".join(f"{text(norms[name])} of {name}" for name in names)

"""One run: what rounding makes, texts through views and nulls, and what that comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.checkpoints import steps_of
from forwardcache.jobs.diff import detect, measured
from forwardcache.jobs.diff.begun import Begun
from forwardcache.jobs.diff.compared import compared, writer
from forwardcache.jobs.diff.detect import LEAST, Detection, visible_from
from forwardcache.jobs.diff.facts import Loaded, facts_of_diff
from forwardcache.jobs.diff.found import NUMBERS, Found
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.measured import MeasuredFloor, measured_floor
from forwardcache.jobs.diff.moved import MOST, moved_positions
from forwardcache.jobs.diff.notes import (
    notes_on_floor,
    notes_on_nulls,
    notes_on_numbers,
    notes_on_others,
    notes_on_texts,
    notes_on_unmatched,
    without_number,
)
from forwardcache.jobs.diff.nulls import Nulls, Places, compared_nulls, places, seeds
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.other_views import chain_of, other_view
from forwardcache.jobs.diff.others import Others, compared_others, failing_early
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.metadata import Facts
from forwardcache.jobs.metadata import seeds as seeds_of_views
from forwardcache.jobs.session import Session
from forwardcache.jobs.skips import Skipped, in_order
from forwardcache.jobs.views import View
from forwardcache.statistics import (
    DiffResult,
    MovedPosition,
    Outcome,
    Positions,
    Summary,
    ViewDifference,
    against_floor,
    judge,
    summaries,
)
from forwardcache.statistics.intervals import FEWEST_TEXTS
from forwardcache.statistics.nulls import TextMeans, mean_of_texts
from forwardcache.statistics.sentences import left_out_notes

MOST_MOVED = 200
"""Positions of all views together that are shown in their context, each read twice for it."""

_FEWEST_MOVED = 5
_SCALED = {"ft", "scaled"}


class Steps(Protocol):
    """Whom to tell what is being done."""

    def begin(self, step: str) -> None:
        """``step`` begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _All:
    """Everything that was measured.

    Attributes:
        found: Of the texts.
        positions: By name of a view: those that count.
        summed: What they come to.
        measured: The floor.
        nulls: The nulls.
        places: By name of a view: its place among them.
        visible: By adapter: how little of it can be told from rounding; empty where nobody asked.
        moved: By name of a view: what it moved most.
        steps: By adapter that is a checkpoint of a run: its number.
        others: Other models; None where none was asked for.
        unmatched: What has to be said of random views that were asked for.
    """

    found: Found
    positions: Mapping[str, Positions]
    summed: Mapping[str, Summary]
    measured: MeasuredFloor
    nulls: Nulls
    places: Mapping[str, Places]
    visible: Mapping[str | None, Detection]
    moved: Mapping[str, tuple[MovedPosition, ...]]
    steps: Mapping[str | None, int]
    others: Others | None = None
    unmatched: Sequence[str] = ()


def run_diff(
    session: Session,
    plan: DiffPlan,
    options: DiffOptions,
    *,
    steps: Steps,
    begun: Begun | None = None,
    digests: Facts | None = None,
) -> DiffResult:
    """Measure what rounding makes, compare, and sum up.

    Args:
        session: The loaded model.
        plan: What is compared.
        options: What was asked for.
        steps: Whom to tell.
        begun: What is known already, and where rows go, which aren't published here; None for
            nothing and nowhere.
        digests: Of model and adapter; None where nobody keeps them.

    Raises:
        InvalidInputError: a text can't be compared and isn't to be skipped, no position counts, or
            rounding could not be measured.
        MachineError: memory or disk are too small.
    """
    backend = session.backend
    begun = Begun.anew(plan) if begun is None else begun
    loaded, unmatched = Loaded.of(session), notes_on_unmatched(backend, plan)
    failed = failing_early(backend, plan, options)
    # First: what it refuses needn't wait for the comparison.
    steps.begin("measuring what rounding makes")
    floor = measured_floor(backend, plan, begun.kept)
    steps.begin("comparing views")
    found = compared(backend, plan, begun)
    if not plan.views:
        # Other models alone: all texts are theirs.
        found.positions = list(range(len(plan.prompts)))
    positions = _positions(plan, found, are_kept=options.report is not None)
    if options.nulls and plan.why_no_nulls is None:
        steps.begin("comparing nulls")
    # Texts that every view has: those of any.
    names = next(iter(positions.values())).names if positions else ()
    nulls = compared_nulls(
        backend, plan, options.nulls, floor.positions, names=names, kept=begun.kept
    )
    visible = _visible(session, plan, steps, floor, begun.kept) if options.detect else {}
    moved = {} if options.report is None else _moved(session, plan, steps, found)
    others = None
    if options.others or options.chain:
        others = compared_others(
            backend, plan, options, positions=found.positions, floor=floor, failed=failed,
            steps=steps, write=writer(backend, plan, begun),
        )  # fmt: skip
        positions |= {name: one.positions for name, one in others.found.items()}
        found.skipped += others.skipped
    steps.begin("summing up")
    groups = None if plan.groups is None else [plan.groups[at] for at in found.positions]
    everything = _All(
        found=found,
        positions=positions,
        summed=summaries(positions, groups=groups),
        measured=floor,
        nulls=nulls,
        places=places(plan, nulls, positions, groups, floor.floor),
        visible=visible,
        moved=moved,
        steps=steps_of([view.adapter for view in plan.views]),
        others=others,
        unmatched=unmatched,
    )
    return _result(loaded, plan, options, everything, digests or {})


def _result(
    loaded: Loaded,
    plan: DiffPlan,
    options: DiffOptions,
    all_: _All,
    digests: Facts,
) -> DiffResult:
    others, bounds = all_.others, options.bounds()
    # A random adapter is what others are held against, unless nothing else was asked for.
    held = [view for view in plan.views if not view.is_null] or plan.views
    views = tuple(_view(view, options, all_, is_held=view in held) for view in plan.views)
    if others is not None:
        of_others = others.found.values()
        views += tuple(other_view(one, all_.summed[one.model.name], bounds) for one in of_others)
    first = max((view.positions for view in views), key=len)
    skipped = in_order(plan.source.skipped, all_.found.skipped)
    facts = _facts(loaded, plan, options, all_, digests=digests, skipped=skipped)
    floor = all_.measured.floor
    return DiffResult(
        reference=plan.reference.name,
        texts=first.texts,
        positions=len(first),
        views=views,
        floor=floor,
        floor_texts=0 if floor is None else len(all_.measured.positions),
        group_by=plan.group_by,
        notes=_notes(plan, all_, views, first, str(facts["dtype"])),
        skipped=len(skipped),
        facts=facts,
        chain=() if others is None or not options.chain else chain_of(plan, views, others),
        not_compared={} if others is None else others.failed,
    )


def _facts(
    loaded: Loaded,
    plan: DiffPlan,
    options: DiffOptions,
    all_: _All,
    *,
    digests: Facts,
    skipped: Sequence[Skipped],
) -> Facts:
    """What the figures were made from."""
    return facts_of_diff(
        loaded,
        plan,
        options,
        digests=digests,
        skipped=skipped,
        rows=all_.found.rows,
        floor=all_.measured.floor,
        floor_texts=len(all_.measured.positions),
        seeds={
            **seeds_of_views(plan.views),
            "floor": measured.SEED,
            "nulls": seeds(options.nulls) if all_.places else [],
        },
        others=all_.others,
    )


def _notes(
    plan: DiffPlan, all_: _All, views: Sequence[ViewDifference], first: Positions, dtype: str
) -> tuple[str, ...]:
    """What has to be said with the figures; ``first`` are the positions of the fullest view."""
    return (
        *left_out_notes(views),
        *notes_on_texts(plan, first),
        *notes_on_numbers(views),
        *notes_on_floor(all_.measured, dtype),
        *notes_on_nulls(plan, all_.nulls, all_.places),
        *all_.unmatched,
        *notes_on_others(all_.others),
    )


def _view(view: View, options: DiffOptions, all_: _All, *, is_held: bool) -> ViewDifference:
    """What was found of one view, held to the bounds or not."""
    name = view.name
    positions, summary, place = all_.positions[name], all_.summed[name], all_.places.get(name)
    floor = all_.measured.floor
    verdict, bounds = None if floor is None else against_floor(positions, floor), options.bounds()
    of_nulls = all_.nulls.of(view) if place is not None else {}
    visible = all_.visible.get(view.adapter) if view.is_whole_adapter else None
    held = judge(name, summary.figures, bounds, floor=verdict, left_out=summary.left_out)
    outcomes = held if is_held else []
    if (why := without_number(name, positions)) is not None:
        # Nothing is known of it, whichever bounds there are.
        outcomes = [Outcome(NUMBERS, "undecided", why), *outcomes]
    return ViewDifference(
        view=name,
        positions=positions,
        summary=summary,
        floor=verdict,
        nulls=None if place is None else place.whole,
        null_means={null: _mean_over(one, positions) for null, one in of_nulls.items()},
        group_nulls={} if place is None else place.of_group,
        visible_from_lambda=None if visible is None else visible.visible_from,
        detect_least=None if visible is None else visible.least,
        moved=all_.moved.get(name, ()),
        outcomes=tuple(outcomes),
        adapter=view.adapter,
        lam=view.lam if view.kind in _SCALED else None,
        step=all_.steps.get(view.adapter),
    )


def _mean_over(null: TextMeans, positions: Positions) -> float:
    """A null's mean over the texts that a view has."""
    return mean_of_texts({name: null[name] for name in positions.names if name in null})


def _visible(
    session: Session, plan: DiffPlan, steps: Steps, floor: MeasuredFloor, kept: Kept
) -> dict[str | None, Detection]:
    """Of each adapter whose whole is compared: how little of it can be told from rounding."""
    steps.begin("finding the smallest scale that is visible")
    if floor.floor is None:
        return {}
    adapters = dict.fromkeys(view.adapter for view in plan.views if view.is_whole_adapter)
    if len(floor.floor.kl_of) < FEWEST_TEXTS:
        # No verdict at any scale, so that none is run.
        return dict.fromkeys(adapters, Detection(None, LEAST))
    found = {}
    for adapter in adapters:
        if (noted := kept.find(detect.KEPT, adapter or "")) is not None:
            found[adapter] = Detection(*noted)
            continue
        found[adapter] = visible_from(
            session.backend,
            [plan.texts[at] for at in floor.positions],
            floor.floor,
            adapter=adapter,
            completions=[plan.prompts[at].completion for at in floor.positions],
            skip_first=plan.skip_first,
            windows=None,
            reference=plan.reference.of(session.backend),  # type: ignore[arg-type]
        )
        kept.note(detect.KEPT, adapter or "", list(found[adapter]))
    return found


def _moved(
    session: Session, plan: DiffPlan, steps: Steps, found: Found
) -> dict[str, tuple[MovedPosition, ...]]:
    """By name of a view: the positions that it moved most, in their context."""
    steps.begin("reading what moved most")
    prompts = [plan.prompts[at] for at in found.positions]
    most = min(MOST, max(MOST_MOVED // len(plan.views), _FEWEST_MOVED))
    return {
        view.name: moved_positions(
            session.backend,
            found.items[view.name],
            view.of(session.backend),  # type: ignore[arg-type]  # what it gives isn't entered
            ids=[str(prompt.id) for prompt in prompts],
            lines=[prompt.line for prompt in prompts],
            reference=plan.reference.of(session.backend),  # type: ignore[arg-type]
            skip_first=plan.skip_first,
            most=most,
        )
        for view in plan.views
    }


def _positions(plan: DiffPlan, found: Found, *, are_kept: bool) -> dict[str, Positions]:
    """By name of a view: the positions that count; what they are made of goes unless it is kept.

    Raises:
        InvalidInputError: there is none.
    """
    known = {}
    for name, items in found.items.items():
        known[name] = Positions.of(items, skip_first=plan.skip_first)
        if not are_kept:
            items.clear()
    for name, one in known.items():
        # A view that is no number anywhere leaves the others as they are; ``_view`` tells of it.
        if not len(one) and not one.left_out:
            raise InvalidInputError(
                f"{name}: no position counts in {len(found.positions):,} compared "
                f"{'text' if len(found.positions) == 1 else 'texts'}"
                + (f" behind the first {plan.skip_first:,} of each" if plan.skip_first else "")
            )
    return known

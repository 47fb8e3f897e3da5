"""One run: texts through views, and what the differences come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.diff.compared import Found, compared
from forwardcache.jobs.diff.facts import facts_of_diff
from forwardcache.jobs.diff.notes import notes_on_dtype, notes_on_texts
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.metadata import Facts
from forwardcache.jobs.results import RowSink
from forwardcache.jobs.session import Session
from forwardcache.statistics import DiffResult, Positions, ViewDifference, judge, summaries
from forwardcache.statistics.resampling import SEED

if TYPE_CHECKING:
    from forwardcache.jobs.skips import Skipped


class Steps(Protocol):
    """Whom to tell what is being done."""

    def begin(self, step: str) -> None:
        """``step`` begins."""


def run_diff(
    session: Session,
    plan: DiffPlan,
    options: DiffOptions,
    *,
    steps: Steps,
    sink: RowSink | None = None,
    digests: Facts | None = None,
) -> DiffResult:
    """Compare, and sum up.

    Args:
        session: The loaded model.
        plan: What is compared.
        options: What was asked for.
        steps: Whom to tell.
        sink: Where rows go; None for nowhere. It isn't published here.
        digests: Of model and adapter; None where nobody keeps them.

    Raises:
        InvalidInputError: a text can't be compared and isn't to be skipped, or no position counts.
        MachineError: memory or disk are too small.
    """
    steps.begin("comparing")
    found = compared(session.backend, plan, sink)
    positions = _positions(plan, found)
    steps.begin("summing up")
    groups = None if plan.groups is None else [plan.groups[at] for at in found.positions]
    summed = summaries(positions, groups=groups)
    bounds = options.bounds()
    views = tuple(
        ViewDifference(
            view=name,
            positions=one,
            summary=summed[name],
            outcomes=tuple(judge(name, summed[name].figures, bounds)),
        )
        for name, one in positions.items()
    )
    skipped = _all_skipped(plan, found)
    dtype = str(session.arithmetic()["dtype"])
    first = views[0].positions
    return DiffResult(
        reference=plan.reference.name,
        texts=first.texts,
        positions=len(first),
        views=views,
        group_by=plan.group_by,
        notes=(*notes_on_texts(plan, positions), *notes_on_dtype(dtype)),
        skipped=len(skipped),
        facts=facts_of_diff(
            session,
            plan,
            options,
            digests=digests or {},
            skipped=skipped,
            rows=found.rows,
            floor=None,
            floor_texts=0,
            seeds={"intervals": SEED},
        ),
    )


def _positions(plan: DiffPlan, found: Found) -> Mapping[str, Positions]:
    """By name of a view: the positions that count.

    Raises:
        InvalidInputError: there is none.
    """
    known = {
        name: Positions.of(items, skip_first=plan.skip_first) for name, items in found.items.items()
    }
    for name, one in known.items():
        if not len(one):
            raise InvalidInputError(
                f"{name}: none of the {len(found.positions):,} texts that were compared has a "
                f"position that counts ({one.left_out:,} are no number, the first "
                f"{plan.skip_first:,} of each text are left out)"
            )
    return known


def _all_skipped(plan: DiffPlan, found: Found) -> list[Skipped]:
    """The texts without rows, in order."""
    return sorted([*plan.source.skipped, *found.skipped], key=lambda one: one.line)

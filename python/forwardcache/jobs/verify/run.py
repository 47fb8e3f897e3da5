"""Rows scored again, with no cache and no store, and held against those of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.jobs.rows import Row, finite
from forwardcache.jobs.verify.bound import HALF, Bound, bound_of
from forwardcache.jobs.verify.elsewhere import differing
from forwardcache.jobs.verify.findings import (
    Finding,
    findings_of_fields,
    findings_of_input,
    findings_of_rows,
    of_apart,
)
from forwardcache.jobs.verify.plan import Plan
from forwardcache.operation import Apart

if TYPE_CHECKING:
    from forwardcache.jobs.session import Session
    from forwardcache.jobs.verify.again import Again


@dataclass(frozen=True, slots=True)
class Furthest:
    """The value that is furthest off, for what it may be.

    Attributes:
        nats: The difference in nats a token, which is what the bound is held against.
        difference: The difference, nats.
        allowed: How large that may be, nats.
        line: Of its prompt.
        view: Its view.
        field: Its field.
    """

    nats: float
    difference: float
    allowed: float
    line: int
    view: str
    field: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found.

    Attributes:
        rows: Rows in the table.
        prompts: Prompts that they are of.
        checked: Rows that were scored again.
        lines: The prompts of these.
        seed: What chose them.
        bound: How far a value was allowed to be off.
        elsewhere: What of the arithmetic is another than recorded, in words.
        furthest: The one that is furthest off, of numbers; None where there was none.
        findings: What is not as it should be, that of the whole table first.
        notes: What can't be checked, a sentence each.
        unchecked: Names of facts that nothing was held against.
    """

    rows: int
    prompts: int
    checked: int
    lines: tuple[int, ...]
    seed: int
    bound: Bound
    elsewhere: tuple[str, ...]
    furthest: Furthest | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong that other arithmetic doesn't explain."""
        return all(each.is_excused for each in self.findings)

    def as_json(self) -> dict[str, Any]:
        """What ``--format json`` prints."""
        far = self.furthest
        return {
            "ok": self.is_good,
            "rows": self.rows,
            "prompts": self.prompts,
            "rows_checked": self.checked,
            "lines_checked": list(self.lines),
            "seed": self.seed,
            "bound_nats": self.bound.nats,
            "bound_elsewhere_nats": self.bound.wide,
            "floor_nats": self.bound.floor,
            "floor_dtype": self.bound.dtype,
            "elsewhere": list(self.elsewhere),
            "largest": None if far is None else asdict(far),
            "findings": [each.as_json() for each in self.findings],
            "notes": list(self.notes),
            "facts_unchecked": list(self.unchecked),
        }


def checked(session: Session, plan: Plan) -> Verification:
    """Score the chosen prompts again and compare.

    Args:
        session: The model of the plan.
        plan: What is checked.

    Raises:
        InvalidInputError: a prompt can't be scored here, or the chat template writes another text.
        MachineError: memory is too small.
    """
    from forwardcache.jobs.verify.again import again_of

    recorded = plan.recorded
    if session.template_digest() != recorded.template:
        raise InvalidInputError(
            "the chat template writes another text than when the rows were made (does it print "
            "the day?): the prompts are no longer the same"
        )
    elsewhere = differing(recorded.arithmetic, session.arithmetic(), recorded.versions)
    again = again_of(session, plan)
    dtype = session.arithmetic()["dtype"]
    bound = bound_of(
        dtype,
        recorded.arithmetic["dtype"],
        measured=_floor(session, plan) if dtype in HALF else None,
        told=recorded.floor,
        is_elsewhere=bool(elsewhere),
        others=[each.dtype for each in recorded.others],
    )
    findings = list(findings_of_rows(plan.expected, plan.table, recorded.rows))
    furthest, count = None, 0
    for row, apart in _compared(again, plan, findings):
        count += 1
        for each in apart:
            if (found := of_apart(row, each, bound=bound.nats, wide=bound.wide)) is not None:
                findings.append(found)
            furthest = _further(furthest, row, each, bound)
    return Verification(
        rows=len(plan.table.names),
        prompts=plan.prompts,
        checked=count,
        lines=tuple(prompt.line for prompt in plan.source.prompts),
        seed=plan.seed,
        bound=bound,
        elsewhere=tuple(elsewhere),
        furthest=furthest,
        findings=tuple(findings),
        notes=plan.notes,
        unchecked=recorded.unchecked,
    )


def _further(known: Furthest | None, row: Row, apart: Apart, bound: Bound) -> Furthest | None:
    """The further off of what is known and a field of a row; one that has no nats is neither."""
    nats = finite(apart.nats)
    if apart.unit != "nats" or nats is None or (known is not None and nats <= known.nats):
        return known
    allowed = bound.nats * apart.tolerances
    return Furthest(nats, apart.difference, allowed, row["line"], row["view"], apart.field)


def _compared(
    again: Again, plan: Plan, findings: list[Finding]
) -> Iterator[tuple[Row, list[Apart]]]:
    """Each chosen row that is in the table, with how far its fields are off."""
    prompts = {prompt.line: prompt for prompt in plan.source.prompts}
    for fresh in again.rows():
        row = plan.table.rows.get((fresh["line"], fresh["view"]))
        # One that is missing was found by counting.
        if row is not None:
            findings += findings_of_input(row, prompts[fresh["line"]])
            findings += findings_of_fields(again.head, again.columns, row)
            yield row, again.apart(row, fresh)


def _floor(session: Session, plan: Plan) -> float | None:
    """What rounding moves a log-probability on average, nats; None where it can't be measured."""
    try:
        # Of any length, also where the rows' op needs the end of a prompt alone.
        floor = session.backend.rounding_floor(plan.floor_texts, windows=True)
    except ForwardCacheError:
        return None
    return float(floor.mean_abs_delta_logprob)

"""``score --dry-run``: what would be run, what the store has of it, and about how long it takes.

Nothing is scored and nothing written: no rows, no trace, no store where there is none yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.cli.exits import say
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.skips import Skipped, skipped_line
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.jobs.job import Job
    from forwardcache.jobs.options import ScoreOptions

_MEASURED_PROMPTS = 32
_MEASURED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Share:
    """What of a view would be run.

    Attributes:
        view: Its name in the rows.
        prompts: Prompts of the job.
        kept: Those whose values the store has, or that stand there twice.
        to_run: The others.
        tokens: Tokens of these.
    """

    view: str
    prompts: int
    kept: int
    to_run: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long it would take.

    Attributes:
        seconds: Of forwards; None where none could be measured.
        measured_tokens: Tokens that were run to tell.
    """

    seconds: float | None
    measured_tokens: int


def check_dry_run(options: ScoreOptions) -> None:
    """Refuse what a dry run can't look into.

    Raises:
        InvalidInputError: naming the option.
    """
    refused = {
        "--ray": options.ray is not None,
        "--workers": options.workers is not None,
        "--resume": options.resume,
    }
    for name, given in refused.items():
        if options.dry_run and given:
            raise InvalidInputError(f"--dry-run doesn't go with {name}")


def dry_run(options: ScoreOptions, source: PromptSet, views: tuple[View, ...]) -> list[Skipped]:
    """Look, and tell; the prompts that would be skipped."""
    from forwardcache.jobs.planning import make_job

    session = load(_looking(options.loading))
    try:
        job = make_job(
            session, source, options.op, views, top_k=options.top_k, on_error=options.on_error
        )
        shares = [_share(session, job, view) for view in views]
        estimate = _estimate(session, job, sum(share.tokens for share in shares))
    finally:
        session.close()
    if options.json:
        _show_json(job, shares, estimate)
    else:
        _show(job, shares, estimate)
    return list(job.source.skipped)


def _looking(loading: ModelOptions) -> ModelOptions:
    """The options of loading without what would be written."""
    stores = [] if loading.store is None else loading.store.split(",")
    there = [store for store in stores if "://" in store or Path(store).exists()]
    return replace(loading, trace=None, store=",".join(there) or None, verify=0.0)


def _share(session: Session, job: Job, view: View) -> Share:
    from forwardcache.hf.scoring.rehearsal import distinct_missing

    items = session.backend.rendered(job.source.items(job.op), op=job.op)
    with view.of(session.backend) as entered:
        missing = distinct_missing(entered, job.op, items, top_k=job.asked_k)
    tokens = sum(job.lengths[at] for at in missing)
    return Share(view.name, len(items), len(items) - len(missing), len(missing), tokens)


def _estimate(session: Session, job: Job, tokens: int) -> Estimate:
    """From a forward of the base model over some prompts, the longest first."""
    from forwardcache.hf.scoring.rehearsal import seconds_a_token, typical

    if not tokens:
        return Estimate(0.0, 0)
    items = session.backend.rendered(job.source.items(job.op), op=job.op)
    longest = max(range(len(items)), key=lambda at: job.lengths[at])
    sample = [items[longest], *typical(items, _MEASURED_PROMPTS)]
    view = max(job.views, key=lambda view: view.kind == "base")
    with view.of(session.backend) as entered:
        found = seconds_a_token(
            entered, job.op, sample, top_k=job.asked_k, most_tokens=_MEASURED_TOKENS
        )
    return Estimate(None, 0) if found is None else Estimate(found[0] * tokens, found[1])


def _show_json(job: Job, shares: Sequence[Share], estimate: Estimate) -> None:
    from forwardcache.cli.tables import show_json

    told: dict[str, Any] = {
        "dry_run": True,
        "op": job.op,
        "prompts": len(job.source.prompts),
        "tokens": sum(job.lengths),
        "longest_tokens": max(job.lengths),
        "views": [asdict(share) for share in shares],
        "skipped": [one.as_json() for one in job.source.skipped],
        "estimate": asdict(estimate),
    }
    show_json(sys.stdout, told)


def _show(job: Job, shares: Sequence[Share], estimate: Estimate) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("view", "prompts", "there already", "to run", "tokens to run")
    for column in table.columns[1:]:
        column.justify = "right"
    for share in shares:
        figures = share.prompts, share.kept, share.to_run, share.tokens
        table.add_row(share.view, *(f"{figure:,}" for figure in figures))
    Console(file=sys.stdout).print(table)
    print(
        f"{len(job.source.prompts):,} prompts, {sum(job.lengths):,} tokens, "
        f"the longest {max(job.lengths):,}"
    )
    print(_estimated(estimate))
    if job.source.skipped:
        say(skipped_line(job.source.skipped, None))


def _estimated(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "how long it would take is unknown: no prompt could be run"
    if not estimate.measured_tokens:
        return "nothing would be run"
    left = timedelta(seconds=max(1, round(estimate.seconds)))
    return (
        f"about {left} of forwards, from {estimate.measured_tokens:,} tokens that were run to tell"
    )

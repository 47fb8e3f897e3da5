"""``score --parts``: workers write the rows, this process says which and keeps their receipts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.cli.endings import tell_of_missing, tell_of_nonfinite, tell_of_traces
from forwardcache.cli.exits import say
from forwardcache.cli.extras import PARTS, check_installed
from forwardcache.errors import InterruptedRunError, InvalidInputError
from forwardcache.jobs.skips import Skipped, in_order
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.distributed.crew import Crew
    from forwardcache.distributed.parts.folder import PartsFolder
    from forwardcache.distributed.parts.job import PartsScoring
    from forwardcache.jobs.options import ScoreOptions
    from forwardcache.jobs.prompt_source.plan import Plan
    from forwardcache.jobs.summary import JobFigures


def check_parts(options: ScoreOptions) -> None:
    """Refuse what doesn't go with ``--parts``, and a folder that can't take them.

    Raises:
        InvalidInputError: naming the option.
    """
    from forwardcache.distributed.parts.opening import open_folder

    check_installed(*PARTS, extra="parts")
    if options.out_folder is None:
        raise InvalidInputError("--parts needs --out FOLDER: there is nothing else to write to")
    if options.noise_floor:
        raise InvalidInputError("--noise-floor runs the model in this process: leave out --parts")
    folder = open_folder(options.out_folder)
    folder.check()
    _check_others_elsewhere(options, folder)
    check_free(folder, force=options.force, resume=options.resume)


def _check_others_elsewhere(options: ScoreOptions, folder: PartsFolder) -> None:
    """Refuse a trace or store in the folder, where it would be foreign, and one among the prompts.

    Raises:
        InvalidInputError: naming it.
    """
    from forwardcache.distributed.parts.folder import LocalFolder
    from forwardcache.store import files_of

    if not isinstance(folder, LocalFolder):
        return
    root = folder.root.resolve()
    if Path(options.prompts).is_dir() and root.is_relative_to(Path(options.prompts).resolve()):
        raise InvalidInputError(f"--out {folder.root} is in the folder of --prompts")
    trace, store = options.loading.trace, options.loading.store
    others = [] if trace is None else [("--trace", trace)]
    others += [] if store is None else [("--store", path) for path in files_of(store)]
    for option, path in others:
        if path.resolve().is_relative_to(root):
            raise InvalidInputError(f"{option} {path} is in the folder of --out")


def check_free(folder: PartsFolder, *, force: bool, resume: bool) -> None:
    """Refuse a folder that holds something else, or a job that isn't to be gone on with.

    Raises:
        InvalidInputError: naming what is there.
    """
    from forwardcache.distributed.parts.folder import SUCCESS

    if foreign := folder.foreign():
        raise InvalidInputError(
            f"{folder.address} holds {foreign[0]}, which is of no job of parts: --out needs a "
            "folder of its own"
        )
    if force or resume:
        return
    if SUCCESS in folder.top():
        raise InvalidInputError(
            f"{folder.address} holds a job that is done: --resume computes what it lacks of these "
            "prompts, --force begins again"
        )
    if folder.is_begun():
        raise InvalidInputError(
            f"{folder.address} holds an unfinished job: --resume goes on with it, --force begins "
            "again"
        )


def score_parts(options: ScoreOptions, views: tuple[View, ...]) -> list[Skipped]:
    """Score, write the manifest, report; the prompts that were skipped."""
    from forwardcache.distributed.parts.lock import locked
    from forwardcache.distributed.parts.opening import absolute, open_folder
    from forwardcache.jobs.metadata import deciding_but_prompts
    from forwardcache.jobs.prompt_source import open_source
    from forwardcache.jobs.prompt_source.plan import Plan

    folder = open_folder(absolute(options.out_folder or ""))
    folder.prepare()
    with locked(folder, take_over=options.force):
        check_free(folder, force=options.force, resume=options.resume)
        facts = deciding_but_prompts(options, views)
        with closing(open_source(options.prompts)) as source:
            plan = Plan(source, limit=options.limit, on_error=options.on_error)
            return _with_workers(_Run(options, views, facts, folder, plan))


@dataclass(frozen=True, slots=True)
class _Run:
    """What was asked for, and what is done for it.

    Attributes:
        options: What was asked for.
        views: In the order of a prompt's rows.
        facts: What decides the rows.
        folder: Where they go.
        plan: The prompts.
    """

    options: ScoreOptions
    views: tuple[View, ...]
    facts: dict[str, Any]
    folder: PartsFolder
    plan: Plan


def _with_workers(run: _Run) -> list[Skipped]:
    from forwardcache.distributed.scoring import crew_for, norms_of

    options = run.options
    with crew_for(options) as crew:
        say(crew.shared_out)
        scoring = _scoring(run, crew)
        figures = _run(options, scoring)
        scoring.sum_up()
        skipped = in_order(scoring.plan.skipped, scoring.tally.skipped)
        scoring.finish(_facts(run, scoring, skipped, crew))
        norms = norms_of(crew, run.views) if scoring.tally.is_compared else {}
        missing = crew.close()
    _report(run, scoring, skipped, norms, figures)
    tell_of_nonfinite(scoring.tally.nonfinite)
    tell_of_missing(missing)
    tell_of_traces(options.loading.trace)
    say(f"the rows are in {run.folder.address}: forwardcache merge makes one file of them")
    return skipped


def _scoring(run: _Run, crew: Crew[Any]) -> PartsScoring:
    """The job, its prompts cut into chunks, with what earlier runs left."""
    from forwardcache.distributed.parts.job import PartsScoring, check_job, read_plan, write_job
    from forwardcache.distributed.parts.naming import job_digest
    from forwardcache.distributed.parts.work import PartsJob
    from forwardcache.jobs.planning import asked_k
    from forwardcache.jobs.results import TEMPLATE

    options, plan, told = run.options, run.plan, crew.facts()
    if written := told["template"]:
        run.facts[TEMPLATE] = written
    begins_again = options.force and not options.resume
    if not begins_again:
        check_job(run.folder, run.facts)
    job = PartsJob(
        run.folder.address,
        job_digest(run.facts),
        plan.source.kind,
        options.op,
        run.views,
        options.top_k,
        asked_k(run.views, options.top_k, told["vocab_size"]),
    )
    read_plan(crew, plan, job)
    if begins_again:
        # Only now: what is there stays until it is known that this job can begin.
        run.folder.empty()
    write_job(run.folder, run.facts)
    scoring = PartsScoring(crew, run.folder, plan, job, on_error=options.on_error)
    scoring.take_up()
    if scoring.prompts_done:
        say(f"the rows of {scoring.prompts_done:,} of {plan.prompts:,} prompts are there already")
    return scoring


def _run(options: ScoreOptions, scoring: PartsScoring) -> JobFigures:
    from forwardcache.cli.timing import timed_parts

    try:
        return timed_parts(scoring)
    except KeyboardInterrupt:
        done = f"{scoring.prompts_done:,} of {scoring.plan.prompts:,}"
        raise InterruptedRunError(
            f"interrupted; the rows of {done} prompts are in {options.out_folder}, the same "
            "command with --resume (without --force) goes on"
        ) from None


def _facts(
    run: _Run, scoring: PartsScoring, skipped: Sequence[Skipped], crew: Crew[Any]
) -> dict[str, Any]:
    """What stands in the manifest: what one process writes next to its rows, and the job."""
    from forwardcache.jobs.metadata import facts_of_scoring, input_facts

    plan, tally = run.plan, scoring.tally
    return {
        "job": scoring.job.digest,
        **facts_of_scoring(
            run.options,
            run.views,
            job_facts={**run.facts, "limit": run.options.limit},
            arithmetic=crew.facts()["arithmetic"],
        ),
        **input_facts(
            run.options.prompts,
            plan.digest,
            plan.prompts + len(plan.skipped),
            skipped,
            rows=tally.rows,
            hits=tally.hits,
        ),
        "noise_floor": None,
    }


def _report(
    run: _Run,
    scoring: PartsScoring,
    skipped: Sequence[Skipped],
    norms: dict[str, float | None],
    figures: JobFigures,
) -> None:
    """The comparison on standard output, and one line of figures on standard error."""
    from forwardcache.cli.score_summary import Summary
    from forwardcache.jobs.differences import compared

    tally = scoring.tally
    found = compared(run.options.op, run.views, tally.values(), tally, norms=norms)
    Summary(run.options, run.views, skipped, found, figures).show(sys.stdout)

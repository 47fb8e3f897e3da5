"""``forwardcache score``: prompts through the views of one model, one row each.

Everything that can be refused without the model is refused before torch is imported. The first line
says what is going to be done: it comes before anything that takes long (a large file of prompts,
the digests of a large model), and behind the checks of paths and options.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from forwardcache.cli.checks import (
    check_folders,
    check_outputs,
    check_part,
    check_template,
    check_workers,
    checked_views,
)
from forwardcache.cli.dry_run import check_dry_run, dry_run
from forwardcache.cli.endings import (
    how_to_go_on,
    tell_of_missing,
    tell_of_nonfinite,
    tell_of_store,
    tell_of_traces,
)
from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import SCORING, check_installed
from forwardcache.cli.score_parts import check_parts, score_parts
from forwardcache.cli.score_summary import Summary
from forwardcache.errors import InterruptedRunError
from forwardcache.jobs.kinds import shown_path
from forwardcache.jobs.metadata import deciding, facts_of
from forwardcache.jobs.prompts import PromptSet, check_source, read_prompts
from forwardcache.jobs.recall.run import Recall
from forwardcache.jobs.session import Session, parse_identity
from forwardcache.jobs.skips import Skipped, in_order
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.distributed.scoring import TeamScoring
    from forwardcache.hf.scoring.noise import NoiseFloor
    from forwardcache.jobs.differences import Comparison
    from forwardcache.jobs.job import Job, Scoring
    from forwardcache.jobs.options import ScoreOptions
    from forwardcache.jobs.results import RowSink
    from forwardcache.jobs.summary import JobFigures

FLOAT32_BYTES = 4


def score(options: ScoreOptions) -> int:
    """Run the command; the exit code."""
    check_installed(*SCORING)
    check_workers(options)
    views = checked_views(options)
    check_template(options)
    parse_identity(options.loading.identity)
    check_dry_run(options)
    check_folders(options.loading)
    check_outputs(options)
    if options.parts:
        check_parts(options)
    check_source(options.prompts)
    say(_what_is_done(options, views))
    if options.parts and not options.dry_run:
        skipped = score_parts(options, views)
        return ExitCode.NO if skipped and options.strict else ExitCode.DONE
    source = read_prompts(options.prompts, limit=options.limit, on_error=options.on_error)
    source = source.for_op(options.op, options.on_error)
    skipped = (
        _scored(options, source, views) if not options.dry_run else dry_run(options, source, views)
    )
    return ExitCode.NO if skipped and options.strict else ExitCode.DONE


def _scored(options: ScoreOptions, source: PromptSet, views: tuple[View, ...]) -> list[Skipped]:
    """Score and report; the prompts that were skipped."""
    job_facts = deciding(options, source, views)
    check_part(options.out, job_facts, resume=options.resume)
    if options.workers is not None:
        return _score_on_team(options, source, views, job_facts)
    recall = Recall(options, source, views)
    session = recall.session()
    try:
        return _score_with(session, options, source, views, job_facts, recall=recall)
    finally:
        session.close()


def _what_is_done(options: ScoreOptions, views: Sequence[View]) -> str:
    """The first line."""
    named, through = shown_path(options.prompts), ", ".join(view.name for view in views)
    return f"scoring {named} ({options.op}) with {options.loading.named}, views {through}"


def _score_with(
    session: Session,
    options: ScoreOptions,
    source: PromptSet,
    views: tuple[View, ...],
    job_facts: dict[str, Any],
    *,
    recall: Recall,
) -> list[Skipped]:
    """Score, publish, report; the prompts that were skipped."""
    from forwardcache.cli.timing import timed_job
    from forwardcache.jobs.differences import comparison_of, update_norms
    from forwardcache.jobs.job import Scoring
    from forwardcache.jobs.planning import make_job
    from forwardcache.jobs.results import TEMPLATE

    job = make_job(
        session, source, options.op, views, top_k=options.top_k, on_error=options.on_error
    )
    scoring = Scoring(session.backend, session.recorder, job)
    if written := session.template_digest():
        job_facts[TEMPLATE] = written
    sink, done = _open_sink(options, scoring, job_facts)
    try:
        figures = timed_job(session, scoring, sink, done=done)
        are_compared = bool(scoring.totals.differences)
        floor = _noise_floor(session, options, job, are_compared, recall=recall)
        sink.publish(_facts(options, scoring, job_facts, session.arithmetic(), floor))
    except KeyboardInterrupt:
        raise InterruptedRunError(_how_to_go_on(options, scoring)) from None
    finally:
        sink.close()
    norms = update_norms(session.backend, job.views) if are_compared else {}
    _report(options, scoring, comparison_of(job, scoring.totals, floor=floor, norms=norms), figures)
    tell_of_store(session)
    missing = session.close_trace()
    tell_of_nonfinite(session.backend.nonfinite_results)
    tell_of_missing(missing)
    recall.keep(session, job, norms)
    return _all_skipped(scoring)


def _score_on_team(
    options: ScoreOptions,
    source: PromptSet,
    views: tuple[View, ...],
    job_facts: dict[str, Any],
) -> list[Skipped]:
    """The same with workers: processes of this machine, or of a Ray cluster."""
    from forwardcache.cli.timing import timed_team_job
    from forwardcache.distributed.scoring import TeamScoring, crew_for, make_job
    from forwardcache.jobs.differences import comparison_of
    from forwardcache.jobs.results import TEMPLATE

    with crew_for(options) as team:
        say(team.shared_out)
        job = make_job(
            team, source, options.op, views, top_k=options.top_k, on_error=options.on_error
        )
        scoring = TeamScoring(team, job)
        if written := team.facts()["template"]:
            job_facts[TEMPLATE] = written
        sink, done = _open_sink(options, scoring, job_facts)
        try:
            figures = timed_team_job(scoring, sink, done=done)
            sink.publish(_facts(options, scoring, job_facts, scoring.arithmetic(), None))
        except KeyboardInterrupt:
            raise InterruptedRunError(_how_to_go_on(options, scoring)) from None
        finally:
            sink.close()
        norms = scoring.norms() if scoring.totals.differences else {}
        missing = team.close()
    _report(options, scoring, comparison_of(job, scoring.totals, norms=norms), figures)
    tell_of_nonfinite(scoring.nonfinite)
    tell_of_missing(missing)
    tell_of_traces(options.loading.trace)
    return _all_skipped(scoring)


def _facts(
    options: ScoreOptions,
    scoring: Scoring | TeamScoring,
    job_facts: dict[str, Any],
    arithmetic: dict[str, Any],
    floor: NoiseFloor | None,
) -> dict[str, Any] | None:
    """What is kept with the rows; None where they are not in a file."""
    from forwardcache.jobs.summary import floor_as_json

    if options.out is None:
        return None
    return facts_of(
        options,
        scoring.job,
        scoring.totals,
        job_facts=job_facts,
        skipped=_all_skipped(scoring),
        arithmetic=arithmetic,
        noise_floor=None if floor is None else floor_as_json(floor),
    )


def _all_skipped(scoring: Scoring | TeamScoring) -> list[Skipped]:
    """The prompts without rows, in order."""
    return in_order(scoring.job.source.skipped, scoring.totals.skipped)


def _open_sink(
    options: ScoreOptions, scoring: Scoring | TeamScoring, job_facts: dict[str, Any]
) -> tuple[RowSink, int]:
    """Where rows go, and how many prompts are done there."""
    from forwardcache.jobs.results import PartFile, StdoutRows
    from forwardcache.jobs.resume import take_up

    if options.out is None:
        return StdoutRows(), 0
    part = PartFile(
        options.out,
        job_facts,
        force=options.force,
        resume=options.resume,
        prompts=scoring.job.source.prompts,
    )
    scoring.on_skip = part.add_skipped
    done = take_up(part, scoring.job, scoring.totals) if options.resume else 0
    if done:
        say(f"going on after {done:,} of {len(scoring.job.source.prompts):,} prompts")
    return part, done


def _how_to_go_on(options: ScoreOptions, scoring: Scoring | TeamScoring) -> str:
    from forwardcache.jobs.results import is_unfinished, rows_kept
    from forwardcache.jobs.resume import prompts_done

    job, out = scoring.job, options.out
    # The interrupt may have come before the totals had what the part has, or amid a write.
    rows = scoring.totals.rows if out is None else rows_kept(out)
    done = prompts_done(job, rows, scoring.totals.skipped)
    count = f"{done:,} of {len(job.source.prompts):,} prompts"
    if out is None:
        return f"interrupted; the rows of {count} were written"
    if not is_unfinished(out):
        return "interrupted before the first rows were done"
    return how_to_go_on(out, count)


def _noise_floor(
    session: Session, options: ScoreOptions, job: Job, are_compared: bool, *, recall: Recall
) -> NoiseFloor | None:
    """How far base is from itself, where that was asked for or half precision makes it matter."""
    from forwardcache.divergence import WIDE
    from forwardcache.hf.scoring.noise import NoiseFloor

    backend = session.backend
    half = session.itemsize < FLOAT32_BYTES
    if not (half and are_compared if options.noise_floor is None else options.noise_floor):
        return None
    # Over fewer tokens a divergence is a lower one.
    top_k = max(job.asked_k, WIDE)

    def measured() -> dict[str, Any]:
        view = backend.as_base() if are_compared else None
        items = job.source.items(job.op)
        return asdict(backend.noise_floor(items, job.op, view=view, top_k=top_k))

    return NoiseFloor(**recall.floor(job.op, measured, top_k=top_k, of_base=are_compared))


def _report(
    options: ScoreOptions,
    scoring: Scoring | TeamScoring,
    found: Comparison,
    figures: JobFigures,
) -> None:
    """The comparison where rows don't go, and one line of figures on standard error."""
    stream = sys.stderr if options.out is None else sys.stdout
    Summary(options, scoring.job.views, _all_skipped(scoring), found, figures).show(stream)

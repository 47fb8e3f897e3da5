"""``forwardcache score``: prompts through the views of one model, one row each.

Everything that can be refused without the model is refused before torch is imported.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.cli.exits import BadInputError, ExitCode, InterruptedRunError, say
from forwardcache.cli.extras import PARQUET, SCORING, check_installed
from forwardcache.cli.fingerprint import folder_fingerprint
from forwardcache.cli.loading import ModelOptions, Session, check_folders, check_trace, load
from forwardcache.cli.prompts import STDIN, PromptSet, read_prompts
from forwardcache.cli.views import View, parse_views

if TYPE_CHECKING:
    from forwardcache.cli.job import Job, Scoring
    from forwardcache.cli.output import RowSink
    from forwardcache.cli.summary import RunFigures
    from forwardcache.distributed.scoring import TeamScoring
    from forwardcache.hf.noise import NoiseFloor

FLOAT32_BYTES = 4
ROW_FORMAT = 3
"""Rises when rows have other fields: one file holds rows of one format."""


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What was asked for; ``forwardcache score --help`` describes each."""

    loading: ModelOptions
    prompts: str
    views: str | None
    op: str
    top_k: int
    out: Path | None
    force: bool
    resume: bool
    noise_floor: bool | None
    json: bool
    ray: str | None = None
    workers: int | None = None


def score(options: ScoreOptions) -> int:
    """Run the command; the exit code."""
    parquet = options.out is not None and options.out.suffix.lower() == ".parquet"
    check_installed(*SCORING, *(PARQUET if parquet else ()))
    _check_workers(options)
    views = _checked_views(options)
    _check_template(options)
    source = read_prompts(options.prompts)
    source.items(options.op)
    check_folders(options.loading)
    job_facts = _job_facts(options, source, views)
    _check_outputs(options, job_facts)
    if options.ray is not None:
        _score_on_team(options, source, views, job_facts)
        return ExitCode.DONE
    session = load(options.loading)
    try:
        _score_with(session, options, source, views, job_facts)
    finally:
        session.close()
    return ExitCode.DONE


def _check_workers(options: ScoreOptions) -> None:
    if options.ray is None:
        if options.workers is not None:
            raise BadInputError("--workers needs --ray: without it one process scores")
        return
    check_installed("ray", extra="ray")
    if options.workers is None:
        raise BadInputError("--ray needs --workers N: how many models are loaded")
    if options.noise_floor:
        raise BadInputError("--noise-floor runs the model in this process: leave out --ray")


def _checked_views(options: ScoreOptions) -> tuple[View, ...]:
    has_adapter = options.loading.adapter is not None
    default = "base,ft" if has_adapter else "base"
    named = default if options.views is None else options.views
    return parse_views(named, has_adapter=has_adapter)


def _check_template(options: ScoreOptions) -> None:
    if options.loading.chat_template_args is not None and not options.loading.chat_template:
        raise BadInputError("--chat-template-args needs --chat-template")
    if options.loading.chat_template and options.op == "rolling_logprob":
        raise BadInputError(
            "--chat-template doesn't go with rolling_logprob, which scores a text as it stands"
        )


def _check_outputs(options: ScoreOptions, job_facts: dict[str, Any]) -> None:
    from forwardcache.cli.output import check_out, check_same_job, is_unfinished

    check_trace(options.loading.trace)
    _check_distinct(options)
    if options.out is None:
        if options.resume:
            raise BadInputError("--resume needs --out: it goes on with OUT.part")
        return
    check_out(options.out, force=options.force, resume=options.resume)
    if options.resume and is_unfinished(options.out):
        check_same_job(options.out, job_facts)


def _check_distinct(options: ScoreOptions) -> None:
    """Refuse a file that would be written and is also something else."""
    from forwardcache.cli.output import names_of
    from forwardcache.store import files_of

    prompts = _stdin_file() if options.prompts == STDIN else Path(options.prompts)
    trace, out, store = options.loading.trace, options.out, options.loading.store
    kept = () if store is None else tuple(files_of(store))
    others: list[tuple[str, Path]] = [] if prompts is None else [("prompts", prompts)]
    if trace is not None:
        _refuse_same("--trace", trace, (trace,), others)
        others.append(("trace", trace))
    _refuse_same("--store", store, kept, others)
    others += [("store", path) for path in kept]
    if out is not None:
        _refuse_same("--out", out, names_of(out), others)


def _refuse_same(
    option: str, given: object, writes: Iterable[Path], others: Iterable[tuple[str, Path]]
) -> None:
    for written, (name, other) in product(writes, others):
        if _is_same_file(other, written):
            beside = "" if str(written) == str(given) else f" writes {written}, which"
            raise BadInputError(f"{option} {given}{beside} is also the file of the {name}")


def _stdin_file() -> Path | None:
    """The file that standard input is, if it is one."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(0).st_mode):
            return Path("/dev/stdin")
    return None


def _is_same_file(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _job_facts(options: ScoreOptions, source: PromptSet, views: Sequence[View]) -> dict[str, Any]:
    """What decides the rows: a part goes on only with the same."""
    if options.out is None:
        return {}
    facts = asdict(options.loading)
    for name in ("model", "adapter"):
        if facts[name] is not None and Path(facts[name]).is_dir():
            facts[name] = folder_fingerprint(Path(facts[name]))
    for free in ("trace", "allow_download", "store", "verify"):
        del facts[free]
    names = [view.name for view in views]
    facts["row format"] = ROW_FORMAT
    return {**facts, "op": options.op, "views": names, "top_k": options.top_k,
            "prompts": source.sha256}  # fmt: skip


def _score_with(
    session: Session,
    options: ScoreOptions,
    source: PromptSet,
    views: tuple[View, ...],
    job_facts: dict[str, Any],
) -> None:
    """Score, publish, report."""
    from forwardcache.cli import summary
    from forwardcache.cli.job import Scoring
    from forwardcache.cli.running import make_job, timed_run

    job = make_job(session, source, options.op, views, top_k=options.top_k)
    scoring = Scoring(session.backend, session.recorder, job)
    sink, done = _open_sink(options, scoring, job_facts)
    try:
        figures = timed_run(session, scoring, sink, done=done)
        sink.publish()
    except KeyboardInterrupt:
        raise InterruptedRunError(_how_to_go_on(options, scoring)) from None
    finally:
        sink.close()
    are_compared = bool(summary.differences(job.views, scoring.tally))
    _report(options, scoring, figures, _noise_floor(session, options, job, are_compared))
    if session.store is not None:
        _tell_of_store(session)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        missing = session.instrumentation.trace.close()
    _warn(session.backend.nonfinite_results, missing)


def _score_on_team(
    options: ScoreOptions,
    source: PromptSet,
    views: tuple[View, ...],
    job_facts: dict[str, Any],
) -> None:
    """The same with the workers of a Ray cluster."""
    from forwardcache.cli.running import timed_team_run
    from forwardcache.distributed.scoring import TeamScoring, make_job, team_for, trace_of

    workers, address = options.workers or 1, options.ray or ""
    with team_for(options.loading, workers=workers, address=address) as team:
        job = make_job(team, source, options.op, views, top_k=options.top_k)
        scoring = TeamScoring(team, job)
        sink, done = _open_sink(options, scoring, job_facts)
        try:
            figures = timed_team_run(scoring, sink, done=done)
            sink.publish()
        except KeyboardInterrupt:
            raise InterruptedRunError(_how_to_go_on(options, scoring)) from None
        finally:
            sink.close()
        missing = team.close()
    _report(options, scoring, figures, None)
    _warn(scoring.nonfinite, missing)
    if options.loading.trace is not None:
        say(f"each worker has a trace, {trace_of(options.loading.trace, '*')}: see trace merge")


def _open_sink(
    options: ScoreOptions, scoring: Scoring | TeamScoring, job_facts: dict[str, Any]
) -> tuple[RowSink, int]:
    """Where rows go, and how many prompts are done there."""
    from forwardcache.cli.output import PartFile, StdoutRows
    from forwardcache.cli.running import take_up

    if options.out is None:
        return StdoutRows(), 0
    part = PartFile(
        options.out,
        job_facts,
        force=options.force,
        resume=options.resume,
        prompts=scoring.job.source.prompts,
    )
    done = take_up(part, scoring.job, scoring.tally) if options.resume else 0
    if done:
        say(f"going on after {done:,} of {len(scoring.job.source.prompts):,} prompts")
    return part, done


def _how_to_go_on(options: ScoreOptions, scoring: Scoring | TeamScoring) -> str:
    from forwardcache.cli.outfile import part_of
    from forwardcache.cli.output import is_unfinished, rows_kept
    from forwardcache.cli.running import prompts_done

    job, out = scoring.job, options.out
    # The interrupt may have come before the tally had what the part has, or amid a write.
    rows = scoring.tally.rows if out is None else rows_kept(out)
    count = f"{prompts_done(job, rows):,} of {len(job.source.prompts):,} prompts"
    if out is None:
        return f"interrupted; the rows of {count} were written"
    if not is_unfinished(out):
        return "interrupted before the first rows were done"
    force = " --force" if out.exists() else ""
    return (
        f"interrupted; the rows of {count} are in {part_of(out)}, "
        f"the same command with --resume{force} goes on"
    )


def _warn(nonfinite: int, missing: int) -> None:
    """Say what went wrong without ending the run."""
    if nonfinite:
        say(
            f"{nonfinite:,} values are not finite (null in the rows): "
            "is the model sound in this dtype?"
        )
    if missing:
        say(f"{missing:,} events are missing in the trace: it could not be written")


def _tell_of_store(session: Session) -> None:
    figures = session.backend.store
    say(f"store: {figures.hits:,} values found, {figures.kept:,} computed and kept")
    if figures.damaged:
        say(f"{figures.damaged:,} values in the store were damaged, and were computed again")
    if figures.not_kept:
        say(f"{figures.not_kept:,} values could not be kept in the store")
    if figures.verified:
        share = f"{figures.mismatches:,} of {figures.verified:,}"
        say(f"verified: {share} values that were computed again are not what was kept")


def _noise_floor(
    session: Session, options: ScoreOptions, job: Job, are_compared: bool
) -> NoiseFloor | None:
    """How far base is from itself, where that was asked for or half precision makes it matter."""
    backend = session.backend
    half = backend.model.dtype.itemsize < FLOAT32_BYTES
    if not (half and are_compared if options.noise_floor is None else options.noise_floor):
        return None
    view = backend.as_base() if are_compared else None
    items = job.source.items(job.op)
    floor: NoiseFloor = backend.noise_floor(items, job.op, view=view, top_k=job.asked_k)
    return floor


def _report(
    options: ScoreOptions,
    scoring: Scoring | TeamScoring,
    figures: RunFigures,
    floor: NoiseFloor | None,
) -> None:
    """The comparison where rows don't go, and one line of figures on standard error."""
    from forwardcache.cli import summary

    stream = sys.stderr if options.out is None else sys.stdout
    found = summary.differences(scoring.job.views, scoring.tally)
    if options.json:
        told = {"op": options.op, "views": summary.as_json(found, options.op)}
        noise = None if floor is None else summary.floor_as_json(floor)
        summary.show_json(stream, {**told, "noise_floor": noise, "run": figures.as_json()})
    elif found:
        summary.show(stream, summary.table(found, options.op, floor))
    if floor is not None:
        say(summary.floor_line(floor))
    say(figures.line())

"""``forwardcache export``: a teacher's most likely tokens, a reference's log-probabilities.

As with ``score``, everything that can be refused without the model is refused before torch is
imported, and before the first line, which says what is going to be done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forwardcache.cli.checks import (
    check_folders,
    check_outputs,
    check_part,
    check_template_arguments,
)
from forwardcache.cli.endings import how_to_go_on, tell_of_missing, tell_of_nonfinite
from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import SCORING, check_installed
from forwardcache.errors import InterruptedRunError, InvalidInputError
from forwardcache.jobs.export.options import ExportOptions, ReferenceOptions, TeacherOptions
from forwardcache.jobs.kinds import shown_path
from forwardcache.jobs.prompts import TEXTS, InputWords, PromptSet, check_source, read_prompts
from forwardcache.jobs.session import Session, load, parse_identity
from forwardcache.jobs.skips import Skipped, in_order, skipped_line
from forwardcache.jobs.views import View, parse_views

if TYPE_CHECKING:
    from forwardcache.jobs.export.run import Export
    from forwardcache.jobs.results import PartFile
    from forwardcache.jobs.summary import JobFigures


def teacher(options: TeacherOptions) -> int:
    """Run ``export teacher``; the exit code."""
    if options.mass is not None and not (0.0 < options.mass <= 1.0):
        raise InvalidInputError(f"--mass is {options.mass:g}, allowed is above 0, up to 1")
    check_template_arguments(options.loading)
    view = _checked_view(options, TEXTS)
    from forwardcache.jobs.export.plan import exportable, teacher_plan
    from forwardcache.jobs.export.rows import TEACHER, TeacherRows
    from forwardcache.jobs.export.run import Export
    from forwardcache.jobs.export.totals import TeacherTotals

    say(_what_is_done(options, view, f"the {options.top_k:,} most likely tokens at each position"))
    source = _read(options, TEXTS)
    source = exportable(
        source, has_template=options.loading.chat_template, on_error=options.on_error
    )

    def made(session: Session) -> Export:
        plan = teacher_plan(session, source, view, options)
        maker = TeacherRows(plan, options.mass)
        return Export(session.backend, session.recorder, plan, maker, TeacherTotals())

    def opened(export: Export, facts: dict[str, Any]) -> PartFile:
        return _part(options, facts, prompts=export.job.source.prompts, columns=TEACHER)

    return _run(options, source, view, made, opened, what="teacher")


def reference(options: ReferenceOptions) -> int:
    """Run ``export reference``; the exit code."""
    check_installed(*SCORING)
    from forwardcache.jobs.export.plan import PAIRS, comparable, fields_of, reference_plan
    from forwardcache.jobs.export.rows import REFERENCE, ReferenceRows
    from forwardcache.jobs.export.run import Export
    from forwardcache.jobs.export.totals import ReferenceTotals

    view = _checked_view(options, PAIRS)
    say(_what_is_done(options, view, "log-probabilities of chosen and rejected completions"))
    source = comparable(_read(options, PAIRS), on_error=options.on_error)

    def made(session: Session) -> Export:
        plan = reference_plan(session, source, view, options)
        cut = sum(each.cut for each in plan.asked)
        totals = ReferenceTotals(cut=cut, merged=sum(each.is_merged for each in plan.asked))
        return Export(session.backend, session.recorder, plan, ReferenceRows(plan), totals)

    def opened(export: Export, facts: dict[str, Any]) -> PartFile:
        from forwardcache.jobs.columns import FieldColumns

        rows = list(map(fields_of, export.job.source.prompts))
        columns = FieldColumns.of(rows)
        return _part(options, facts, columns=REFERENCE, input_columns=lambda: columns)

    return _run(options, source, view, made, opened, what="reference")


def _checked_view(options: ExportOptions, words: InputWords) -> View:
    """The view asked for, once nothing is wrong with the other options."""
    check_installed(*SCORING)
    loading = options.loading
    if options.view is None and len(loading.adapters) > 1:
        raise InvalidInputError("--view: there are several adapters, name one as ft:NAME")
    own = [f"ft:{name}" for name in loading.adapter_names] or ["ft"]
    named = (own[0] if loading.adapters else "base") if options.view is None else options.view
    views = parse_views(named, has_adapter=bool(loading.adapters), adapters=loading.adapter_names)
    if len(views) != 1:
        raise InvalidInputError(f"--view {named}: one view is exported, got {len(views)}")
    parse_identity(loading.identity)
    check_folders(loading)
    check_outputs(options)
    check_source(options.prompts, words)
    return views[0]


def _what_is_done(options: ExportOptions, view: View, what: str) -> str:
    """The first line."""
    named = shown_path(options.prompts)
    return f"exporting {what} over {named}, {options.loading.named}, view {view.name}"


def _read(options: ExportOptions, words: InputWords) -> PromptSet:
    return read_prompts(
        options.prompts, limit=options.limit, on_error=options.on_error, words=words
    )


def _part(options: ExportOptions, facts: dict[str, Any], **columns: Any) -> PartFile:
    from forwardcache.jobs.results import PartFile

    return PartFile(options.out, facts, force=options.force, resume=options.resume, **columns)


def _run(
    options: ExportOptions,
    source: PromptSet,
    view: View,
    made: Callable[[Session], Export],
    opened: Callable[[Export, dict[str, Any]], PartFile],
    *,
    what: str,
) -> int:
    """Load, export, report; the exit code."""
    from forwardcache.jobs.export.facts import deciding

    job_facts = deciding(options, source, view, export=what)
    check_part(options.out, job_facts, resume=options.resume)
    session = load(options.loading)
    try:
        export = made(session)
        figures = _exported(session, options, export, job_facts, opened)
        skipped = _all_skipped(export)
        _report(options, export, figures, skipped)
        tell_of_missing(session.close_trace())
    finally:
        session.close()
    return ExitCode.NO if skipped and options.strict else ExitCode.DONE


def _exported(
    session: Session,
    options: ExportOptions,
    export: Export,
    job_facts: dict[str, Any],
    opened: Callable[[Export, dict[str, Any]], PartFile],
) -> JobFigures:
    """Export; the rows have their name when it returns."""
    from forwardcache.cli.timing import timed_job
    from forwardcache.jobs.export.facts import facts_of_export
    from forwardcache.jobs.export.resume import take_up
    from forwardcache.jobs.results import TEMPLATE

    if written := session.template_digest():
        job_facts[TEMPLATE] = written
    part = opened(export, job_facts)
    export.on_skip = part.add_skipped
    try:
        done = take_up(part, export) if options.resume else 0
        if done:
            say(f"going on after {done:,} of {len(export.job.source.prompts):,} {_many(export)}")
        figures = timed_job(session, export, part, done=done)
        facts = facts_of_export(
            options,
            export.plan,
            export.totals,
            job_facts=job_facts,
            skipped=_all_skipped(export),
            arithmetic=session.arithmetic(),
        )
        part.publish(facts)
    except KeyboardInterrupt:
        raise InterruptedRunError(_how_to_go_on(options, export)) from None
    finally:
        part.close()
    return figures


def _how_to_go_on(options: ExportOptions, export: Export) -> str:
    from forwardcache.jobs.export.resume import done_so_far
    from forwardcache.jobs.results import is_unfinished, rows_kept

    # The interrupt may have come before the totals had what the part has, or amid a write.
    done = done_so_far(export.plan, rows_kept(options.out), export.totals.skipped)
    if not is_unfinished(options.out):
        return "interrupted before the first rows were done"
    count = f"{done:,} of {len(export.job.source.prompts):,} {_many(export)}"
    return how_to_go_on(options.out, count)


def _many(export: Export) -> str:
    return f"{export.job.source.words.one}s"


def _all_skipped(export: Export) -> list[Skipped]:
    """Those without rows, in order."""
    return in_order(export.job.source.skipped, export.totals.skipped)


def _report(
    options: ExportOptions, export: Export, figures: JobFigures, skipped: list[Skipped]
) -> None:
    """What the rows come to, and one line of figures on standard error."""
    from forwardcache.cli import tables

    if options.json:
        told = {"view": export.plan.view.name, **export.totals.as_json()}
        told["skipped"] = [one.as_json() for one in skipped]
        tables.show_json(sys.stdout, {**told, "run": figures.as_json()})
    else:
        tables.show_pairs(sys.stdout, options.out.name, export.totals.lines())
    tell_of_nonfinite(export.nonfinite)
    if skipped:
        say(skipped_line(skipped, None, one=export.job.source.words.one))
    say(figures.line())

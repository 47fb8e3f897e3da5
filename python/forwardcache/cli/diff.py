"""``forwardcache diff``: how far views are from a reference, as a table, JSON, rows, pages, bounds.

Everything that can be refused without the model is refused before torch is imported, and before the
first line, which says what is going to be done. What the run will take is said before it begins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from forwardcache.cli.diff_checks import checked
from forwardcache.cli.exits import ExitCode, say
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.kinds import STDIN
from forwardcache.jobs.prompts import TEXTS, read_prompts
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.skips import skipped_line
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.jobs.diff.plan import DiffPlan
    from forwardcache.jobs.results import PartFile
    from forwardcache.statistics import DiffResult


def diff(options: DiffOptions) -> int:
    """Run the command; the exit code."""
    views, reference = checked(options)
    from forwardcache.jobs.diff.compared import check_views
    from forwardcache.jobs.diff.nulls import why_no_nulls
    from forwardcache.jobs.diff.plan import comparable, make_plan

    say(_what_is_done(options, views, reference))
    source = read_prompts(
        options.texts, limit=options.limit, on_error=options.on_error, words=TEXTS
    )
    source = comparable(
        source, has_template=options.loading.chat_template, on_error=options.on_error
    )
    session = load(options.loading)
    try:
        plan = make_plan(
            session,
            source,
            views,
            reference,
            in_windows=options.loading.windows,
            group_by=options.group_by,
            skip_first=options.skip_first,
            on_error=options.on_error,
        )
        check_views(session.backend, plan, detect=options.detect)
        why = why_no_nulls(session.backend, plan, options.nulls)
        plan = replace(plan, why_no_nulls=why)
        if options.dry_run:
            return _dry_run(session, plan, options)
        result = _run(session, plan, options)
    finally:
        session.close()
    _show(result, options)
    return _exit_code(result, options)


def _what_is_done(options: DiffOptions, views: Sequence[View], reference: View) -> str:
    """The first line."""
    loading = options.loading
    named = "standard input" if options.texts == STDIN else options.texts
    adapter = f" and {', '.join(map(str, loading.adapters))}" if loading.adapters else ""
    compared = ", ".join(view.name for view in views)
    return f"comparing {compared} with {reference.name} over {named}, {loading.model}{adapter}"


def _dry_run(session: Session, plan: DiffPlan, options: DiffOptions) -> int:
    """Say what would be run."""
    from forwardcache.cli.diff_estimate import estimate
    from forwardcache.cli.tables import show_json

    found = estimate(session, plan, options)
    skipped = plan.source.skipped
    if options.json:
        told = {"dry_run": True, "views": [view.name for view in plan.views]}
        show_json(
            sys.stdout,
            {**told, "skipped": [one.as_json() for one in skipped], "estimate": found.as_json()},
        )
    else:
        print(found.line())
        if skipped:
            say(skipped_line(skipped, None, one="text"))
    return ExitCode.NO if skipped and options.strict else ExitCode.DONE


def _run(session: Session, plan: DiffPlan, options: DiffOptions) -> DiffResult:
    """Compare; rows have their name when it returns."""
    from forwardcache.cli.diff_estimate import estimate
    from forwardcache.cli.diff_progress import diff_progress
    from forwardcache.jobs.diff.run import run_diff
    from forwardcache.jobs.metadata import digests_of

    expected = estimate(session, plan, options)
    say(expected.line())
    kept = options.out is not None or options.report is not None
    digests = digests_of(options.loading) if kept else None
    with _part(plan, options) as sink, diff_progress(expected.tokens) as progress:
        session.backend.progress = progress.advance
        try:
            result = run_diff(session, plan, options, steps=progress, sink=sink, digests=digests)
        finally:
            session.backend.progress = None
        if sink is not None:
            sink.publish(dict(result.facts))
    return result


@contextmanager
def _part(plan: DiffPlan, options: DiffOptions) -> Iterator[PartFile | None]:
    """Where rows go; a run that ends before they are published leaves none."""
    from forwardcache.jobs.diff.rows import COLUMNS
    from forwardcache.jobs.results import PartFile

    if options.out is None:
        yield None
        return
    part = PartFile(
        options.out,
        {},
        force=options.force,
        resume=False,
        prompts=plan.prompts,
        columns=COLUMNS,
        is_resumable=False,
    )
    try:
        yield part
    finally:
        part.close()


def _show(result: DiffResult, options: DiffOptions) -> None:
    """Write the files that are made of the result, and print it."""
    from forwardcache.cli.diff_table import show_diff
    from forwardcache.cli.tables import show_json
    from forwardcache.statistics.sentences import left_out_notes

    # First: the reader of standard output may be gone.
    _write_files(result, options)
    if options.json:
        show_json(sys.stdout, result.as_json())
    else:
        show_diff(sys.stdout, result)
    if result.facts["skipped"]:
        first = result.facts["skipped"][0]
        count = f"{result.skipped:,} text{'' if result.skipped == 1 else 's'}"
        say(f"{count} skipped; the first, line {first['line']}: {first['reason']}")
    for note in left_out_notes(result.views):
        say(note.removesuffix("."))


def _write_files(result: DiffResult, options: DiffOptions) -> None:
    from forwardcache.jobs.whole_file import whole_file

    if options.junit is not None:
        from forwardcache.jobs.diff.junit import write_junit

        write_junit(options.junit, result, force=options.force)
    if options.report is not None:
        from forwardcache.observe.report.diff_page import diff_page

        with whole_file(options.report, force=options.force) as part:
            part.write(diff_page(result).encode())


def _exit_code(result: DiffResult, options: DiffOptions) -> ExitCode:
    """What the bounds come to, with a line for each that doesn't hold."""
    from forwardcache.statistics import worst

    outcomes = [outcome for view in result.views for outcome in view.outcomes]
    for outcome in outcomes:
        if outcome.state != "ok":
            say(outcome.line)
    state = worst(outcomes)
    if state == "broken":
        return ExitCode.NO
    if state == "undecided":
        return ExitCode.BAD_INPUT
    return ExitCode.NO if result.skipped and options.strict else ExitCode.DONE

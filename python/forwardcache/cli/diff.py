"""``forwardcache diff``: how far views are from a reference, as a table, JSON, rows, pages, bounds.

Everything that can be refused without the model is refused before torch is imported, and before the
first line, which says what is going to be done. What the run will take is said before it begins.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forwardcache.cli.checks import check_part
from forwardcache.cli.diff_checks import checked
from forwardcache.cli.endings import how_to_go_on, tell_of_store
from forwardcache.cli.exits import ExitCode, say
from forwardcache.errors import InterruptedRunError, InvalidInputError
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.kinds import shown_path
from forwardcache.jobs.metadata import Facts
from forwardcache.jobs.prompts import TEXTS, read_prompts
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.skips import skipped_line
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.jobs.diff.begun import Begun
    from forwardcache.jobs.diff.plan import DiffPlan
    from forwardcache.statistics import DiffResult


_MOST_NAMED = 8
"""Views, and adapters, that the first line names; more are counted."""


def diff(options: DiffOptions) -> int:
    """Run the command; the exit code."""
    asked, reference = checked(options)
    from forwardcache.jobs.diff.compared import check_views
    from forwardcache.jobs.diff.facts import deciding
    from forwardcache.jobs.diff.nulls import with_nulls
    from forwardcache.jobs.diff.plan import comparable, make_plan

    say(_what_is_done(options, asked, reference))
    source = read_prompts(
        options.texts, limit=options.limit, on_error=options.on_error, words=TEXTS
    )
    source = comparable(
        source, has_template=options.loading.chat_template, on_error=options.on_error
    )
    job = deciding(options, source, asked, reference)
    check_part(options.out, job, resume=options.resume)
    # A dry run writes nothing.
    loading = replace(options.loading, store=None) if options.dry_run else options.loading
    session = load(loading, skip_adapters=options.on_error == "skip")
    try:
        left_out = session.backend.adapters_left_out
        views = _of_those_left(asked, reference, left_out)
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
        plan = with_nulls(session.backend, plan, options.nulls)
        if options.dry_run:
            return _dry_run(session, plan, options)
        result = _run(session, plan, options, job)
        views_of = {view.name: left_out[view.adapter] for view in asked if view.adapter in left_out}
        result = replace(result, not_compared={**views_of, **result.not_compared})
        tell_of_store(session)
    finally:
        session.close()
    _show(result, options)
    return _exit_code(result, options)


def _of_those_left(
    asked: Sequence[View], reference: View, left_out: Mapping[str, str]
) -> tuple[View, ...]:
    """The views that are compared where adapters that can't be used are left out.

    Raises:
        InvalidInputError: the reference is of one of those, or every view is.
    """
    views = tuple(view for view in asked if view.adapter not in left_out)
    if reference.adapter in left_out or (asked and not views):
        name, why = next(iter(left_out.items()))
        raise InvalidInputError(f"nothing is left to be compared: adapter {name!r}: {why}")
    return views


def _what_is_done(options: DiffOptions, views: Sequence[View], reference: View) -> str:
    """The first line."""
    loading = options.loading
    named = shown_path(options.texts)
    names, adapters = [view.name for view in views], list(map(str, loading.adapters))
    if len(names) > _MOST_NAMED:
        names = [f"{len(names):,} views from {names[0]} to {names[-1]}"]
    if len(adapters) > _MOST_NAMED:
        adapters = [f"{len(adapters):,} adapters"]
    adapter = f" and {', '.join(adapters)}" if adapters else ""
    compared = ", ".join([*names, *map(str, options.others)])
    return f"comparing {compared} with {reference.name} over {named}, {loading.model}{adapter}"


def _dry_run(session: Session, plan: DiffPlan, options: DiffOptions) -> int:
    """Say what would be run."""
    from forwardcache.cli.diff_estimate import estimate
    from forwardcache.cli.tables import show_json

    found = estimate(session, plan, options)
    skipped = plan.source.skipped
    if options.json:
        told = {"dry_run": True, "views": [view.name for view in plan.views],
                "others": [each.name for each in options.others]}  # fmt: skip
        show_json(
            sys.stdout,
            {**told, "skipped": [one.as_json() for one in skipped], "estimate": found.as_json()},
        )
    else:
        print(found.line())
        if skipped:
            say(skipped_line(skipped, None, one="text"))
    return ExitCode.NO if skipped and options.strict else ExitCode.DONE


def _run(session: Session, plan: DiffPlan, options: DiffOptions, job: Facts) -> DiffResult:
    """Compare; rows have their name when it returns."""
    from forwardcache.jobs.diff.begun import begun
    from forwardcache.jobs.metadata import digests_of
    from forwardcache.jobs.results import TEMPLATE

    if written := session.template_digest():
        job = {**job, TEMPLATE: written}
    kept = options.out is not None or options.report is not None
    digests = digests_of(options.loading) if kept else None
    with begun(plan, options.out, job, force=options.force, resume=options.resume) as known:
        try:
            result = _compared(session, plan, options, known, digests)
            if known.part is not None:
                known.part.publish(dict(result.facts))
        except KeyboardInterrupt:
            if options.out is None:
                raise
            raise InterruptedRunError(_how_to_go_on(options.out, plan, known)) from None
    return result


def _compared(
    session: Session, plan: DiffPlan, options: DiffOptions, begun: Begun, digests: Facts | None
) -> DiffResult:
    """Compare what isn't known, with the plan before it and the progress beside it."""
    from forwardcache.cli.diff_estimate import estimate
    from forwardcache.cli.diff_progress import diff_progress
    from forwardcache.jobs.diff.run import run_diff

    if begun.done:
        say(f"going on after {begun.done:,} of {len(plan.prompts):,} texts")
    expected = estimate(session, plan, options, begun)
    say(expected.line())
    with diff_progress(expected.tokens) as progress:
        session.backend.progress = progress.advance
        try:
            return run_diff(session, plan, options, steps=progress, begun=begun, digests=digests)
        finally:
            session.backend.progress = None


def _how_to_go_on(out: Path, plan: DiffPlan, begun: Begun) -> str:
    from forwardcache.jobs.results import is_unfinished, rows_kept
    from forwardcache.jobs.resume import prompts_done

    if not is_unfinished(out):
        return "interrupted before anything was done"
    # The interrupt may have come amid a write.
    done = prompts_done(plan, rows_kept(out), begun.found.skipped)
    return how_to_go_on(out, f"{done:,} of {len(plan.prompts):,} texts")


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
    for name, why in result.not_compared.items():
        say(f"{name} was not compared: {why.removesuffix('.')}")
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
    from forwardcache.statistics import Bounds, worst

    outcomes = [outcome for view in result.views for outcome in view.outcomes]
    for outcome in outcomes:
        if outcome.state != "ok":
            say(outcome.line)
    state = worst(outcomes)
    if state == "broken":
        return ExitCode.NO
    if state == "undecided" or (result.not_compared and options.bounds() != Bounds()):
        # A view that a bound couldn't be held to is no pass.
        return ExitCode.BAD_INPUT
    missing = result.skipped or result.not_compared
    return ExitCode.NO if missing and options.strict else ExitCode.DONE

"""``forwardcache check engine``: a foreign engine from the command line, with no code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, TextIO

from forwardcache.conformance.checks import names_of_checks
from forwardcache.conformance.expected import ExpectedFailures, expected_failures
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.guard import why_not_checked
from forwardcache.conformance.locate import locate
from forwardcache.conformance.render import report_table, verdict
from forwardcache.conformance.report import Report
from forwardcache.conformance.run import check_conformance
from forwardcache.conformance.told import Told, Writer, judged

__all__ = ["FORMATS", "check_engine"]

FORMATS = ("table", "json")
"""How the report can be printed."""


def check_engine(
    spec: str,
    *,
    profile: str = "seed",
    output_format: str = "table",
    report_all: bool = False,
    failing_spec: str | None = None,
    expected_file: str | None = None,
    writers: Sequence[Writer] = (),
    out: TextIO | None = None,
    err: TextIO | None = None,
    **options: Any,
) -> int:
    """Check the engines of the factory ``spec`` and print the report.

    Args:
        spec: The factory, ``pkg.mod:factory``.
        profile: One of ``PROFILES``.
        output_format: ``"table"`` or ``"json"``.
        report_all: Go on after a failure.
        failing_spec: A factory of engines whose ``start`` raises.
        expected_file: A file of expected failures.
        writers: Write the report to files.
        out: Where the report goes; standard output by default.
        err: Where words go, and what the engine prints; standard error by default.
        **options: Any other keyword of ``run_conformance``.

    Returns:
        0 if the engine conforms, 1 if it doesn't, 2 if it can't be run.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        if output_format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {output_format!r}")
        with redirect_stdout(err):
            failing = locate(failing_spec) if failing_spec else None
            options |= {"profile": profile, "report_all": report_all, "failing_factory": failing}
            options["expected_failures"] = _expected_of(spec, expected_file)
            report = _report_on(locate(spec), options)
    except (Exception, SystemExit) as error:
        print(f"can't check {spec}: {why_not_checked(error)}", file=err)
        return 2
    said = {"engine": spec, **json.loads(report.to_json())}
    is_json = output_format == "json"
    print(json.dumps(said, indent=2) if is_json else report_table(report), file=out)
    told = Told("engine", spec, verdict(report), said, judged(report.results, report.outcomes))
    for write in writers:
        write(told)
    return 0 if report.conforms else 1


def _expected_of(spec: str, path: str | None) -> ExpectedFailures:
    known = expected_failures(path, kit="engine", checks=names_of_checks())
    return known.about(spec.partition(":")[2])


def _report_on(factory: Callable[[], Any], options: dict[str, Any]) -> Report:
    try:
        return check_conformance(factory, **options)
    except ConformanceFailure as failure:
        if failure.report is None:  # Raised by the factory itself, not by a check.
            raise
        return failure.report

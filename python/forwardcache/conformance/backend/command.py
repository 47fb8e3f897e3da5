"""``forwardcache check backend``: a foreign scoring backend from the command line, with no code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TextIO

from forwardcache.conformance import kit
from forwardcache.conformance.backend.run import BackendReport, check_backend, names_of_rules
from forwardcache.conformance.expected import expected_failures
from forwardcache.conformance.locate import locate
from forwardcache.conformance.tables import aligned
from forwardcache.conformance.told import Judged, Told, Writer


def check_backend_spec(
    spec: str,
    *,
    output_format: str = "table",
    report_all: bool = False,
    expected_file: str | None = None,
    writers: Sequence[Writer] = (),
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Checks the backends of the factory ``spec`` and prints the report.

    Args:
        spec: The factory, ``pkg.mod:factory``.
        output_format: "table" or "json".
        report_all: Go on after a broken rule.
        expected_file: A file of expected failures.
        writers: Write the report to files.
        out: Where the report goes; standard output by default.
        err: Where words go, and what the backend prints; standard error by default.

    Returns:
        0 if every rule holds, 1 if one is broken, 2 if the backend can't be made or is none.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        with redirect_stdout(err):
            known = expected_failures(
                expected_file, kit="backend", checks=names_of_rules(), noun="rule"
            )
            report = check_backend(
                locate(spec),
                report_all=report_all,
                raises=False,
                expected_failures=known.about(spec.partition(":")[2]),
            )
    except (Exception, SystemExit) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        print(f"can't check {spec}: {why}", file=err)
        return 2
    if report.shows_nothing:
        why = f"no rule applies to what it gives: {report.results[0].reason}"
        print(f"can't check {spec}: {why}", file=err)
        return 2
    said = {"backend": spec, **report.to_dict()}
    is_json = output_format == "json"
    print(json.dumps(said, indent=2) if is_json else _table(spec, report), file=out)
    checks = [Judged(each.rule, each.outcome, each.reason or None) for each in report.results]
    for write in writers:
        write(Told("backend", spec, _verdict(spec, report), said, checks))
    return 0 if report.conforms else 1


def _table(spec: str, report: BackendReport) -> str:
    rows = [("rule", "outcome", "")]
    rows += [(result.rule, result.outcome, result.reason) for result in report.results]
    head = kit.stamp_line("backend", report.outcomes)
    return "\n".join([*aligned(rows), "", head, _verdict(spec, report)])


def _verdict(spec: str, report: BackendReport) -> str:
    word = "keeps" if report.conforms else "does not keep"
    return f"{spec} {word} the rules of a scoring backend"

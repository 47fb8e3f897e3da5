"""``forwardcache check adapter``: an engine from the command line, with no code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, TextIO

from forwardcache.conformance.adapter.run import (
    Report,
    check_adapter_fidelity,
    names_of_checks,
)
from forwardcache.conformance.expected import expected_failures
from forwardcache.conformance.guard import why_not_checked
from forwardcache.conformance.kit import counted, stamp_line
from forwardcache.conformance.locate import locate
from forwardcache.conformance.render import named
from forwardcache.conformance.tables import aligned
from forwardcache.conformance.told import Told, Writer, judged

__all__ = ["check_adapter_subject"]

_REQUESTS = 3
"""That an answer of a server may take at most, each with the time-out for its own."""


def check_adapter_subject(
    subject: str,
    *,
    model: str,
    model_name: str | None = None,
    profile: str = "quick",
    output_format: str = "table",
    expected_file: str | None = None,
    timeout: float = 120.0,
    writers: Sequence[Writer] = (),
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Check the engine ``subject`` and print the report.

    Args:
        subject: Its factory, ``pkg.mod:factory``, or the address of an OpenAI-style server.
        model: Folder of the model that it serves.
        model_name: Name of the model, as a server knows it; the folder's path unless given.
        profile: "quick" or "full".
        output_format: "table" or "json".
        expected_file: A TOML file with checks that are known to fail.
        timeout: Seconds after which a call or a request has failed.
        writers: Write the report to files.
        out: Where the report goes; standard output by default.
        err: Where words go, and what the engine prints; standard error by default.

    Returns:
        0 if it runs its adapters, 1 if it doesn't or none could be judged, 2 if it can't be asked.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        with redirect_stdout(err):
            known = expected_failures(expected_file, kit="adapter", checks=names_of_checks())
            report = check_adapter_fidelity(
                _factory(subject, model_name or model, timeout),
                model,
                profile=profile,
                expected_failures=known.about(subject.partition(":")[2]),
                timeout=_REQUESTS * timeout if _is_url(subject) else timeout,
            )
    except (Exception, SystemExit) as error:
        print(f"can't check {subject}: {why_not_checked(error)}", file=err)
        return 2
    said = {"subject": subject, **report.to_dict()}
    is_json = output_format == "json"
    print(json.dumps(said, indent=2, allow_nan=False) if is_json else _table(report), file=out)
    told = Told(
        "adapter", subject, _verdict(report)[0], said, judged(report.results, report.outcomes)
    )
    for write in writers:
        write(told)
    return 0 if report.conforms else 1


def _is_url(subject: str) -> bool:
    return subject.startswith(("http://", "https://"))


def _factory(subject: str, model_name: str, timeout: float) -> Callable[[], Any]:
    if not _is_url(subject):
        return locate(subject)
    from forwardcache.conformance.http import CompletionClient, HttpSubject

    return lambda: HttpSubject(CompletionClient(subject, model_name, timeout=timeout))


def _table(report: Report) -> str:
    rows = [("check", "outcome", "ms", "")]
    for result in report.results:
        took = f"{result.seconds * 1000:.0f}" if result.seconds else "-"
        words = ": ".join(filter(None, (named(result.failures), result.reason)))
        rows.append((result.check, result.outcome.replace("_", " "), took, words))
    lines = aligned(rows)
    for failure in report.failures():
        lines += ["", f"{type(failure).__name__}: {failure}"]
    return "\n".join([*lines, "", *_verdict(report)])


def _verdict(report: Report) -> list[str]:
    word = "runs its adapters" if report.conforms else "does not run its adapters"
    if not report.failures() and not report.conforms and "stale" not in report.outcomes:
        word = "no adapter could be judged, so this is no pass"
    line = f"{word}: {counted(report.outcomes)}; floor {report.floor:.2g} nats"
    return [line, stamp_line("adapter", report.outcomes)]

"""``forwardcache check server``: a server from the command line, with no code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TextIO, Unpack

from forwardcache.conformance.expected import Given
from forwardcache.conformance.guard import why_not_checked
from forwardcache.conformance.http.client import RequestFailedError, root_of
from forwardcache.conformance.kit import counted, stamp_line
from forwardcache.conformance.server.run import Options, ServerReport, check_server
from forwardcache.conformance.tables import aligned
from forwardcache.conformance.told import Told, Writer, judged

__all__ = ["check_server_url"]


def check_server_url(
    url: str,
    *,
    model_name: str,
    output_format: str = "table",
    report_all: bool = False,
    expected_file: Given = None,
    writers: Sequence[Writer] = (),
    out: TextIO | None = None,
    err: TextIO | None = None,
    **options: Unpack[Options],
) -> int:
    """Check the server at ``url`` and print the report.

    Args:
        url: The server's address.
        model_name: Name of the model, as the server knows it.
        output_format: "table" or "json".
        report_all: Go on after a failure.
        expected_file: A TOML file with checks that are known to fail.
        writers: Write the report to files.
        out: Where the report goes; standard output by default.
        err: Where words go; standard error by default.
        **options: As for ``check_server``.

    Returns:
        0 if the server conforms, 1 if it doesn't or nothing could be judged, 2 if it can't be
        asked.
    """
    out, err = out or sys.stdout, err or sys.stderr
    try:
        report = check_server(
            url,
            model_name=model_name,
            expected_failures=expected_file,
            report_all=report_all,
            raises=False,
            **options,
        )
    except RequestFailedError as error:
        print(f"can't check {root_of(url)}: {error}", file=err)
        return 2
    except Exception as error:
        print(f"can't check the server: {why_not_checked(error)}", file=err)
        return 2
    said = {"server": root_of(url), "model": model_name, **report.to_dict()}
    is_json = output_format == "json"
    print(json.dumps(said, indent=2) if is_json else _table(report), file=out)
    told = Told(
        "server", root_of(url), _verdict(report)[0], said, judged(report.results, report.outcomes)
    )
    for write in writers:
        write(told)
    return 0 if report.conforms else 1


def _table(report: ServerReport) -> str:
    rows = [("check", "outcome", "ms", "")]
    for result in report.results:
        names = ", ".join(type(failure).__name__ for failure in result.failures)
        took = f"{result.seconds * 1000:.0f}" if result.seconds else "-"
        seen = result.seen.replace("_", " ")
        words = ": ".join(filter(None, (names, result.reason)))
        rows.append((result.check, seen, took, words))
    lines = aligned(rows)
    for failure in report.failures:
        lines += ["", f"{type(failure).__name__}: {failure}"]
    return "\n".join([*lines, "", *_verdict(report)])


def _verdict(report: ServerReport) -> list[str]:
    word = "conforms" if report.conforms else "does not conform"
    if not report.judged_values:
        word = "no log-probability could be judged, so this is no pass"
    line = f"{word}: {counted(report.outcomes)}; tolerance {report.tolerance:.3g} nats"
    return [line, stamp_line("server", report.outcomes)]

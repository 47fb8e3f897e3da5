"""Reports for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby

from forwardcache.conformance import kit
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.report import CheckResult, Report
from forwardcache.conformance.tables import aligned

__all__ = ["named", "report_table", "verdict"]


def report_table(report: Report) -> str:
    """One line a check, then each failure in full, then the kit and the verdict.

    Failures of one kind that a check found several times are shown once, with their number.
    """
    rows = [("check", "outcome", "ms", ""), *(_row(result) for result in report.results)]
    lines = aligned(rows)
    for failure, more in _first_of_each_kind(report.failures):
        lines += ["", f"{type(failure).__name__}: {failure}"]
        if more:
            lines += [f"(and {more} more {type(failure).__name__} of the check {failure.check})"]
    head = kit.stamp_line("engine", report.outcomes)
    return "\n".join([*lines, "", head, verdict(report)])


def named(failures: Iterable[ConformanceFailure]) -> str:
    """The failures' names, each once, with how often it came."""
    counts = Counter(type(failure).__name__ for failure in failures)
    return ", ".join(f"{name} ({n} times)" if n > 1 else name for name, n in counts.items())


def _first_of_each_kind(
    failures: Iterable[ConformanceFailure],
) -> Iterator[tuple[ConformanceFailure, int]]:
    for _, alike in groupby(failures, lambda failure: (failure.check, type(failure))):
        first, *others = alike
        yield first, len(others)


def _row(result: CheckResult) -> tuple[str, ...]:
    took = f"{result.seconds * 1000:.1f}" if result.seconds else "-"
    words = [word for word in (named(result.failures), result.reason) if word]
    return result.check, result.outcome.replace("_", " "), took, ": ".join(words)


def verdict(report: Report) -> str:
    """What a run comes to, in a line."""
    word = "conforms" if report.conforms else "does not conform"
    return f"{word} to profile {report.profile}: {kit.counted(report.outcomes)}"

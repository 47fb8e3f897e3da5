"""Reports for people."""

from __future__ import annotations

from forwardcache.conformance.report import CheckResult, Report
from forwardcache.conformance.tables import aligned

__all__ = ["report_table"]


def report_table(report: Report) -> str:
    """One line a check, then each failure in full, then the verdict."""
    rows = [("check", "outcome", "ms", ""), *(_row(result) for result in report.results)]
    lines = aligned(rows)
    for failure in report.failures:
        lines += ["", f"{type(failure).__name__}: {failure}"]
    return "\n".join([*lines, "", _verdict(report)])


def _row(result: CheckResult) -> tuple[str, ...]:
    names = ", ".join(type(failure).__name__ for failure in result.failures)
    took = f"{result.seconds * 1000:.1f}" if result.seconds else "-"
    return result.check, result.outcome.replace("_", " "), took, names or result.reason or ""


def _verdict(report: Report) -> str:
    word = "conforms" if report.conforms else "does not conform"
    counts = {"passed": 0, "failed": 0, "skipped": 0, "not_run": 0}
    for result in report.results:
        counts[result.outcome] += 1
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return f"{word} to profile {report.profile}: {', '.join(parts)}"

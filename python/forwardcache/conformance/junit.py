"""A kit's report as JUnit XML, one test case a check.

A failed check and a stale expectation are failures; a check that is skipped, not run or failed as
expected is skipped, with the reason. Readers count what is skipped as passed, so a run without a
failure that is no pass, since nothing could be judged, has an error of its own.
"""

from __future__ import annotations

from xml.etree import ElementTree

from forwardcache._junit import case, document
from forwardcache.conformance.told import Judged, Told

__all__ = ["as_junit"]

NO_PASS = "judged"
"""The case that says that a run shows nothing."""

_FAILED = ("failed", "stale")
_SKIPPED = {
    "skipped": "skipped",
    "not_run": "not run",
    "expected": "failed as expected",
}
_IN_THE_REPORT = ("kit_version", "forwardcache", "profile", "model", "checks_run", "checks_in_all")


def as_junit(told: Told) -> bytes:
    """``told`` as JUnit XML, in UTF-8.

    Args:
        told: A run.
    """
    group = f"forwardcache.{told.kit}"
    cases = [_case(group, judged) for judged in told.checks]
    failed = any(judged.outcome in _FAILED for judged in told.checks)
    if not told.report["conforms"] and not failed:
        line = told.verdict
        cases.append(case(group, NO_PASS, "error", line, message=line, type="no pass"))
    of_run = {name: str(told.report[name]) for name in _IN_THE_REPORT if name in told.report}
    told_of_run = {"subject": told.subject, "verdict": told.verdict, **of_run}
    return document(f"forwardcache check {told.kit}", cases, told_of_run)


def _case(group: str, judged: Judged) -> ElementTree.Element:
    name, seconds = judged.check, judged.seconds
    found = "\n\n".join(map(str, judged.failures))
    if judged.outcome in _FAILED:
        first = judged.failures[0] if judged.failures else None
        # A stale check has found nothing.
        kind = judged.outcome if first is None else type(first).__name__
        message = judged.reason or "" if first is None else first.message_line
        return case(
            group, name, "failure", found or message, seconds=seconds, message=message, type=kind
        )
    if judged.outcome in _SKIPPED:
        message = ": ".join(filter(None, (_SKIPPED[judged.outcome], judged.reason)))
        return case(group, name, "skipped", found or None, seconds=seconds, message=message)
    return case(group, name, seconds=seconds)

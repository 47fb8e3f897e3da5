"""A check that is taken out, or turned around, lets a faulty engine through.

Checked here: for every check of the table, that it is needed and that its direction matters.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from forwardcache.conformance import checks
from forwardcache.conformance.checks import CHECKS, Check
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.subject import CheckSkippedError, Subject
from tests.conformance import engines
from tests.conformance.cases import FAULTS, Case


def faults_of(check: Check) -> list[Case]:
    return [case for case in FAULTS if case.check == check.name]


def missed(case: Case) -> bool:
    return type(case.verdict()) is not case.expected


def inverted(check: Check) -> Check:
    """``check``, which fails where it would pass and passes where it would fail."""

    async def find(subject: Subject) -> Failures:
        try:
            found = [failure async for failure in check.find(subject)]
        except CheckSkippedError:
            return
        if not found:
            yield ConformanceFailure()

    return replace(check, find=find)


def use(monkeypatch: pytest.MonkeyPatch, table: tuple[Check, ...]) -> None:
    monkeypatch.setattr(checks, "CHECKS", table)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_without_the_check_a_faulty_engine_is_missed(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tuple(other for other in CHECKS if other is not check))
    assert any(missed(case) for case in faults_of(check))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_with_the_check_inverted_a_faulty_engine_is_missed_and_a_good_one_is_not(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tuple(inverted(c) if c is check else c for c in CHECKS))
    assert any(missed(case) for case in faults_of(check)[:1])
    options = {"failing_factory": engines.FailsToStart}
    good = Case("the correct engine", engines.Engine, profile="strict", options=options)
    assert good.verdict() is not None

"""A check that is taken out, or turned around, lets a faulty engine through.

Checked here: for every check of the table, that it is needed and that its direction matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from forwardcache.conformance import checks
from forwardcache.conformance.checks import CHECKS, ENCODE, RAW, Check
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.subject import CheckSkippedError, Subject
from tests.conformance import engines
from tests.conformance.cases import FAULTS, Case


def faults_of(check: Check) -> list[Case]:
    return [case for case in FAULTS if case.check == check.name]


def missed(case: Case) -> bool:
    failure = case.verdict()
    return type(failure) is not case.expected or failure is None or failure.check != case.check


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


TABLES = {"CHECKS": CHECKS, "ENCODE": ENCODE, "RAW": RAW}
EACH = list({check.name: check for table in TABLES.values() for check in table}.values())
GOOD = {
    "CHECKS": Case(
        "the correct engine",
        engines.Engine,
        profile="strict",
        options={"failing_factory": engines.FailsToStart},
    ),
    "ENCODE": Case("the correct encoder", engines.Encoder, profile="encode"),
    "RAW": Case("the correct raw engine", engines.Raw, profile="raw"),
}


def use(monkeypatch: pytest.MonkeyPatch, change: Callable[[Check], Check | None]) -> None:
    """Each table with its checks as ``change`` makes them; None takes one out."""
    for name, table in TABLES.items():
        changed = [change(check) for check in table]
        monkeypatch.setattr(checks, name, tuple(check for check in changed if check is not None))


@pytest.mark.parametrize("check", EACH, ids=lambda check: check.name)
def test_without_the_check_a_faulty_engine_is_missed(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda other: None if other == check else other)
    assert any(missed(case) for case in faults_of(check))


@pytest.mark.parametrize("check", EACH, ids=lambda check: check.name)
def test_with_the_check_inverted_a_faulty_engine_is_missed_and_a_good_one_is_not(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, lambda other: inverted(other) if other == check else other)
    assert any(missed(case) for case in faults_of(check)[:1])
    for name, table in TABLES.items():
        if check in table:
            assert GOOD[name].verdict() is not None

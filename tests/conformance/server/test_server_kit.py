"""Claims: a right server passes; each planted fault is found by its check, under its name, and
nothing else is said; what a server doesn't offer is skipped; a check that is taken out or turned
around lets a faulty server through.

Requests go to the server in this process; ``test_over_http`` sends them over a connection.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.http import RequestFailedError
from forwardcache.conformance.server import CHECKS, ServerFailure, run
from forwardcache.conformance.server import Check as ServerCheck
from forwardcache.conformance.server import failures as named
from forwardcache.conformance.server.session import CheckSkippedError, Findings, Session
from forwardcache.errors import InvalidInputError
from tests.conformance.server.app import Body, Refused, Right
from tests.conformance.server.conftest import Check
from tests.conformance.server.faults import FAULTS
from tests.conformance.server.near_misses import NEAR_MISSES

OPTIONAL = ("skipped", "not_run")


def names_of(found: tuple[Any, ...]) -> list[str]:
    return [type(each).__name__ for each in found]


def test_a_right_server_passes_every_check(check: Check) -> None:
    report = check(Right)
    assert set(report.outcomes) == {"passed"}, report.failures
    assert report.conforms
    assert report.to_dict()["checks_run"] == len(CHECKS) == len(report.results)


@pytest.mark.parametrize(
    ("name", "failure", "kind"), FAULTS, ids=[each[2].__name__ for each in FAULTS]
)
def test_a_fault_is_found_under_its_name_and_no_other(
    name: str, failure: type[ServerFailure], kind: type[Right], check: Check
) -> None:
    report = check(kind)
    found = {result.check: names_of(result.failures) for result in report.results}
    assert {at: names for at, names in found.items() if names} == {name: [failure.__name__]}
    assert not report.conforms
    (only,) = report.failures
    assert isinstance(only, ServerFailure)
    assert only.check == name
    for part in (only.asked, only.expected, only.came):
        assert part
        assert part in str(only)


@pytest.mark.parametrize(
    ("skipped", "kind"), NEAR_MISSES, ids=[each[1].__name__ for each in NEAR_MISSES]
)
def test_a_near_miss_passes_but_for_what_it_does_not_offer(
    skipped: frozenset[str], kind: type[Right], check: Check
) -> None:
    report = check(kind)
    assert report.failures == ()
    assert {each.check for each in report.results if each.outcome in OPTIONAL} == skipped
    assert all(each.reason for each in report.results if each.outcome == "skipped")
    assert report.conforms


def test_every_check_and_every_failure_has_a_faulty_server() -> None:
    assert {name for name, _, _ in FAULTS} == {each.name for each in CHECKS}
    planted = {failure for _, failure, _ in FAULTS}
    assert planted == {getattr(named, name) for name in named.__all__} - {ServerFailure}


def test_a_server_without_log_probabilities_is_no_pass(check: Check) -> None:
    class NoLogprobs(Right):
        """As ``transformers serve``, which takes the fields and leaves them alone."""

        def choice(self, *args: Any) -> Body:
            args[-1].pop("logprobs", None)
            args[-1].pop("prompt_logprobs", None)
            args[-1].pop("echo", None)
            return super().choice(*args)

    report = check(NoLogprobs)
    assert (report.failures, report.judged_values, report.conforms) == ((), False, False)
    counts = Counter(report.outcomes)
    assert counts == {"passed": 4, "skipped": len(CHECKS) - 4}


def test_the_first_failure_is_raised_and_ends_the_run(check: Check) -> None:
    shifted = next(kind for _, _, kind in FAULTS if kind.__name__ == "PlacesEarly")
    with pytest.raises(named.LogprobsShifted, match="one place early"):
        check(shifted, report_all=False)
    report = check(shifted, report_all=False, raises=False)
    assert report.outcomes[-1] == "not_run"


def test_what_is_expected_to_fail_is_no_failure_and_a_pass_is_stale(check: Check) -> None:
    temperature = next(kind for name, _, kind in FAULTS if name == "temperature")
    known = {"temperature": "SGLang's default"}
    report = check(temperature, expected_failures=known)
    assert report.conforms
    assert "expected" in report.outcomes
    stale = check(Right, expected_failures=known)
    assert not stale.conforms
    assert "stale" in stale.outcomes


def test_a_server_that_does_not_know_the_model_or_key_is_not_judged(check: Check) -> None:
    class Locked(Right):
        def respond(self, body: Body) -> Body:
            raise Refused(401, "wrong key")

    with pytest.raises(RequestFailedError, match="HTTP 401: wrong key"):
        check(Locked)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"texts": ["one", "other"]}, "begin differently"),
        ({"texts": ["one"]}, "two or more"),
        ({"top_k": 2}, "top_k must be at least 3, got 2"),
        ({"atol": 0.0}, "atol must be between 0 and 1"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"timeout": 0}, "timeout must be above 0 seconds, got 0"),
        ({"retries": -1}, "retries must be 0 or more, got -1"),
        ({"expected_failures": {"speed": "slow"}}, "names no check: 'speed'"),
    ],
)
def test_an_option_out_of_range_is_named(options: Any, words: str, check: Check) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check(Right, **options)


def fault_of(check: ServerCheck) -> tuple[type[ConformanceFailure], type[Right]]:
    return next((failure, kind) for name, failure, kind in FAULTS if name == check.name)


@pytest.mark.parametrize("one", CHECKS, ids=lambda each: each.name)
def test_without_the_check_its_faulty_server_is_missed(
    one: ServerCheck, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure, kind = fault_of(one)
    monkeypatch.setattr(run, "CHECKS", tuple(each for each in CHECKS if each is not one))
    report = check(kind, report_all=False, raises=False)
    # Other checks may stumble over a server that answers nothing at all.
    if one.name != "answers":
        assert failure.__name__ not in names_of(report.failures)
    assert one.name not in {each.check for each in report.results}


@pytest.mark.parametrize("one", CHECKS, ids=lambda each: each.name)
def test_a_check_turned_around_misses_its_faulty_server_and_accuses_a_right_one(
    one: ServerCheck, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(session: Session) -> Findings:
        try:
            found = list(one.find(session))
        except CheckSkippedError:
            return
        if not found:
            yield named.WrongValues("", "", "")

    # Alone: what it rests on was shown above.
    monkeypatch.setattr(run, "CHECKS", (replace(one, find=find, needs=()),))
    assert names_of(check(Right).failures) == ["WrongValues"]
    if one.name != "answers":
        assert check(fault_of(one)[1]).failures == ()

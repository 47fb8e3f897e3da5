"""The backend kit beside backends that are right, wrong in one way each, or only half there."""

import json
from functools import partial
from typing import Any

import pytest

from forwardcache.conformance.backend import (
    RULES,
    BackendCheck,
    BackendRuleBroken,
    RuleSkipped,
    Subject,
    backend_checks,
    check_backend,
    parametrize_with_backend_checks,
)
from tests.conformance.backend.dummy import FAULTS, DummyBackend


def outcomes(backend: Any, **asked: Any) -> dict[str, str]:
    report = check_backend(lambda: backend, report_all=True, **asked)
    return {result.rule: result.outcome for result in report.results}


def test_a_right_backend_keeps_every_rule() -> None:
    report = check_backend(DummyBackend)
    named = {result.rule: result.outcome for result in report.results}
    # The dummy itself scores through its views only.
    assert set(named.values()) == {"passed"}, report.results
    assert report.conforms
    assert json.loads(json.dumps(report.to_dict()))["conforms"] is True


def test_an_object_with_nothing_of_a_backend_does_not_conform() -> None:
    report = check_backend(object)
    assert report.shows_nothing
    assert not report.conforms


@pytest.mark.parametrize(("fault", "rule"), FAULTS.items(), ids=list(FAULTS))
def test_each_fault_breaks_exactly_its_rule_first(fault: str, rule: str) -> None:
    with pytest.raises(BackendRuleBroken) as caught:
        check_backend(lambda: DummyBackend(fault))
    assert caught.value.rule == rule
    assert str(caught.value).startswith(f"{rule}: ")


def test_every_rule_has_a_faulty_backend_that_only_it_catches_first() -> None:
    # logprob_adds_up is implied by the rule before it wherever rolling_logprob is right.
    assert {rule.__name__ for rule in RULES} - set(FAULTS.values()) == {"logprob_adds_up"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_without_a_rule_its_fault_goes_unseen_by_the_rules_before_it(rule: Any) -> None:
    mine = [fault for fault, broken in FAULTS.items() if broken == rule.__name__]
    before = RULES[: RULES.index(rule)]
    for fault in mine:
        assert check_backend(partial(DummyBackend, fault), rules=before).conforms


def test_a_length_normalised_completion_does_not_add_up() -> None:
    rules = [rule for rule in RULES if rule.__name__ == "logprob_adds_up"]
    with pytest.raises(BackendRuleBroken, match="logprob_adds_up"):
        check_backend(lambda: DummyBackend("normalised by length"), rules=rules)


def test_the_report_of_all_rules_goes_on_after_a_broken_one() -> None:
    report = check_backend(lambda: DummyBackend("ids in order of id"), report_all=True)
    broken = [result for result in report.results if result.outcome == "failed"]
    assert [result.rule for result in broken] == ["distribution_order"]
    assert len(report.results) == len(RULES)
    assert not report.conforms


def test_the_factory_is_called_once_and_again_after_a_broken_rule() -> None:
    calls = []

    def factory(fault: str = "") -> DummyBackend:
        calls.append(fault)
        return DummyBackend(fault)

    check_backend(factory)
    assert len(calls) == 1
    check_backend(lambda: factory("ids in order of id"), report_all=True)
    assert len(calls) == 3


def test_what_a_backend_does_not_have_is_skipped_with_the_reason() -> None:
    class OnlyScores:
        def __init__(self) -> None:
            with DummyBackend().as_base() as view:
                self.view = view
            self.view.open = True

        def __getattr__(self, name: str) -> Any:
            if name in ("stats", "instrumentation") or name.startswith("as_"):
                raise AttributeError(name)
            return getattr(self.view, name)

    report = check_backend(OnlyScores, forget=lambda backend: None)
    skipped = {result.rule: result.reason for result in report.results if result.reason}
    assert report.conforms
    assert skipped["view_isolation"] == "the backend has no as_base and as_finetuned"
    assert skipped["scale_end_points"] == "the backend has no as_scaled_adapter"
    assert skipped["null_view_restores"] == "the backend has no as_null_adapter"
    assert skipped["counters_add_up"] == "the backend has no stats"


def test_additivity_is_judged_only_at_token_boundaries() -> None:
    rules = {rule.__name__: rule for rule in RULES}
    one_word = Subject(DummyBackend(), pairs=[("ab", "c")])
    with pytest.raises(RuleSkipped, match="token boundary"):
        rules["logprob_adds_up"](one_word)


def test_an_exception_that_no_rule_asked_for_breaks_the_rule() -> None:
    class Broken(DummyBackend):
        def as_finetuned(self) -> Any:
            raise OSError("no adapter file")

    named = outcomes(Broken())
    assert named["view_isolation"] == "failed"
    assert named["value_types"] == "passed"


def test_the_backend_is_closed_whatever_closing_raises() -> None:
    closed = []

    class Closing(DummyBackend):
        def close(self) -> None:
            closed.append(self)
            raise RuntimeError("already gone")

    assert check_backend(Closing).conforms
    assert len(closed) == 1


@parametrize_with_backend_checks({"dummy": DummyBackend})
def test_the_pytest_front_gives_one_item_a_rule(check: BackendCheck) -> None:
    check()


@parametrize_with_backend_checks(
    {"broken": partial(DummyBackend, "ids in order of id")},
    expected_failures={"distribution_order": "sorted by id"},
)
def test_an_expected_failure_of_the_pytest_front_is_an_xfail(check: BackendCheck) -> None:
    check()


def test_each_check_can_be_called_alone() -> None:
    checks = {check.name: check for check in backend_checks(partial(DummyBackend, "ft is base"))}
    with pytest.raises(BackendRuleBroken, match="view_isolation"):
        checks["view_isolation"]()
    checks["distribution_mass"]()


def test_an_expected_failure_must_name_a_rule() -> None:
    with pytest.raises(ValueError, match=r"'speed'.*rules are value_types"):
        parametrize_with_backend_checks({}, expected_failures={"speed": "none"})

"""The backend kit beside backends that are right, wrong in one way each, or only half there."""

import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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


class Of:
    """A backend with these methods of a view of the dummy alone, called directly."""

    def __init__(self, *names: str, fault: str = "") -> None:
        backend = DummyBackend(fault)
        with backend.as_base() as view:
            self.view = view
        self.view.open = True
        self.instrumentation = backend.instrumentation
        for name in names:
            setattr(self, name, getattr(view, name))


ALONE = {
    "logprob_of": {"value_types", "determinism", "hit_equals_miss", "edge_inputs"},
    "rolling_logprob": {
        *("value_types", "determinism", "hit_equals_miss", "edge_inputs"),
        "values_cannot_be_changed",
    },
    "next_token_dist": {
        *("value_types", "determinism", "hit_equals_miss", "values_cannot_be_changed"),
        *("distribution_mass", "distribution_order"),
    },
}


@pytest.mark.parametrize("name", ALONE)
def test_a_backend_with_one_method_is_judged_by_it(name: str) -> None:
    named = outcomes(Of(name))
    assert {rule for rule, outcome in named.items() if outcome == "passed"} == ALONE[name]
    assert set(named.values()) == {"passed", "skipped"}


@pytest.mark.parametrize(
    ("name", "fault", "rule"),
    [
        ("logprob_of", "logprob is a numpy float", "value_types"),
        ("logprob_of", "every call drifts", "determinism"),
        ("rolling_logprob", "float64 logprobs", "value_types"),
        ("next_token_dist", "tail left out", "distribution_mass"),
        ("next_token_dist", "writable arrays", "values_cannot_be_changed"),
    ],
)
def test_a_backend_with_one_faulty_method_breaks_its_rule(name: str, fault: str, rule: str) -> None:
    report = check_backend(partial(Of, name, fault=fault), report_all=True)
    broken = [result.rule for result in report.results if result.outcome == "failed"]
    assert broken[:1] == [rule]


def test_views_without_batched_methods_are_skipped_with_the_reason() -> None:
    class Single(DummyBackend):
        def as_base(self) -> Any:
            return self._single(super().as_base())

        def as_finetuned(self) -> Any:
            return self._single(super().as_finetuned())

        @contextmanager
        def _single(self, entered: Any) -> Any:
            with entered as view:
                yield SimpleNamespace(
                    next_token_dist=view.next_token_dist,
                    rolling_logprob=view.rolling_logprob,
                    logprob_of=view.logprob_of,
                )

    report = check_backend(Single, report_all=True)
    reasons = {result.rule: result.reason for result in report.results if result.reason}
    assert report.conforms
    assert reasons == {
        "batch_equals_single": "what scores has no method both single and batched",
        "counters_add_up": "what scores has no next_token_dist_batch",
    }


class Refusing(Of):
    """Refuses an empty completion with these errors, alone and in a batch."""

    def __init__(self, single: type[Exception], batched: type[Exception]) -> None:
        super().__init__()
        self.single, self.batched = single, batched

    def logprob_of(self, prompt: str, completion: str) -> float:
        if not completion:
            raise self.single("empty")
        return float(self.view.logprob_of(prompt, completion))

    def logprob_of_batch(self, pairs: Any) -> list[float]:
        if any(not completion for _, completion in pairs):
            raise self.batched("empty")
        return [self.logprob_of(*pair) for pair in pairs]


def test_an_empty_completion_may_be_refused_with_any_error_alike() -> None:
    assert outcomes(Refusing(KeyError, KeyError))["edge_inputs"] == "passed"
    assert outcomes(Refusing(KeyError, OSError))["edge_inputs"] == "failed"


def test_a_report_says_which_kit_it_is_and_how_many_rules_have_run() -> None:
    report = check_backend(partial(Of, "logprob_of"), report_all=True).to_dict()
    head = (report["kit"], report["checks_run"], report["checks_in_all"])
    assert head == ("backend", 4, len(RULES))


def test_an_expected_failure_is_reported_and_a_stale_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text('[backend]\ndistribution_order = "sorted by id"\n')
    faulty = partial(DummyBackend, "ids in order of id")
    report = check_backend(faulty, expected_failures=path)
    assert report.conforms
    assert report.outcomes.count("expected") == 1
    with pytest.raises(BackendRuleBroken, match=r"is expected to fail \(sorted by id\) and passes"):
        check_backend(DummyBackend, expected_failures=path)


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

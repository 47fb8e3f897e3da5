"""Claims: sound engines are accused of nothing, each fault is caught under its own name, and a
failure says what was planted, what was expected and what came.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import torch

from forwardcache.conformance.adapter import (
    AdapterIgnored,
    CheckResult,
    PartIgnored,
    Report,
    SubjectFailed,
    WrongScale,
    adapter_checks,
    check_adapter_fidelity,
)
from forwardcache.conformance.adapter import ground as making
from forwardcache.conformance.adapter import parametrize as front
from forwardcache.conformance.adapter.checks import checks_of
from forwardcache.conformance.adapter.ground import Ground
from forwardcache.conformance.adapter.run import check_on, judged
from forwardcache.conformance.adapter.session import Session
from forwardcache.conformance.adapter.subject import Caller
from forwardcache.errors import InvalidInputError, ModelLoadError, UnsupportedModelError
from forwardcache.hf.planting.plant import Plant
from tests.conformance.adapter import faults, prefix_faults
from tests.conformance.adapter.table import FAULTS, ONLY_BY
from tests.conformance.adapter.toy import (
    AdaptersIn16Bits,
    Arithmetic,
    Async,
    LeavesRounding,
    Noisy,
    OffWithAdapters,
    Ours,
    Rounded,
    Sound,
)

Run = Callable[[Callable[[Arithmetic], Any]], Report]


@pytest.fixture(scope="session")
def run(ground: Ground, arithmetic: Arithmetic) -> Run:
    """All checks on what is made of the shared arithmetic."""
    return lambda make: check_on(ground, lambda: make(arithmetic), profile="full")


@pytest.mark.parametrize(
    "make",
    [
        Sound,
        lambda arithmetic: Async(Sound(arithmetic)),
        lambda arithmetic: Rounded(arithmetic, torch.bfloat16),
        lambda arithmetic: Rounded(arithmetic, torch.float16),
        lambda arithmetic: Noisy(arithmetic, 0.005, seed=1),
        lambda arithmetic: Noisy(arithmetic, 0.0001, seed=2),
        LeavesRounding,
        AdaptersIn16Bits,
    ],
    ids=[
        *("fp32", "async", "bf16", "fp16", "noise of 16 bits", "noise of batches", "merged"),
        "adapters in bf16",
    ],
)
def test_a_sound_engine_is_accused_of_nothing(make: Any, run: Run) -> None:
    report = run(make)
    assert report.failures() == ()
    assert report.conforms


@pytest.mark.parametrize("amplified", [1.0, 40.0])
def test_an_adapter_that_makes_rounding_larger_has_a_larger_floor(
    amplified: float, ground: Ground, arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ground, "plant", lambda *asked: replace(Ground.plant(ground, *asked), amplified=amplified)
    )
    session = Session(Caller(OffWithAdapters(arithmetic, 0.05), 60.0), ground)
    base, all_linear = (judged(check, session) for check in checks_of("quick")[:2])
    assert base.outcome == "passed"
    floors = [each.evidence.floor for each in all_linear.failures if each.evidence]
    # 0.8 % of what the adapter does is allowed to its own weights.
    plant = session.plant("all_linear")
    assert floors == ([] if amplified > 1 else [pytest.approx(0.008 * plant.effect)])
    assert session.floor_of(plant) >= session.floor * amplified


def test_our_own_backend_is_accused_of_nothing(ground: Ground, arithmetic: Arithmetic) -> None:
    asked = ("base", "all_linear", "base_kept", "embedding", "rslora")
    caller = Caller(Ours(arithmetic.model), 60.0)
    session = Session(caller, ground)
    found = [judged(each, session) for each in checks_of("quick") if each.name in asked]
    assert {each.check: each.failures for each in found} == dict.fromkeys(asked, ())


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_fault_is_caught_under_its_own_name(kind: type[Sound], run: Run) -> None:
    found = run(kind).failures()
    assert {type(failure).__name__ for failure in found} == {FAULTS[kind]}, found


@pytest.mark.parametrize("kind", ONLY_BY, ids=lambda kind: kind.__name__)
def test_a_fault_that_one_check_sees_is_seen_by_no_other(kind: type[Sound], run: Run) -> None:
    assert [failure.check for failure in run(kind).failures()] == [ONLY_BY[kind]]


def test_there_are_at_least_thirty_faults() -> None:
    assert len(FAULTS) >= 30
    assert {faults.__name__, prefix_faults.__name__} == {kind.__module__ for kind in FAULTS}


@pytest.mark.parametrize(
    ("kind", "factor"),
    [(faults.Halved, 0.5), (faults.AThird, 1 / 3), (faults.AlphaForAlphaOverRank, 8.0)],
)
def test_the_factor_is_told(kind: type[Sound], factor: float, run: Run) -> None:
    found = [each.factor for each in run(kind).failures() if isinstance(each, WrongScale)]
    assert len(found) > 10
    assert found == pytest.approx([factor] * len(found), rel=0.1)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (faults.KeysIgnored, "k"),
        (faults.HeadIgnored, "head"),
        (faults.LastLayerSkipped, "layer 1"),
        (faults.BiasDropped, "biases"),
        (faults.OnlyPrefillAdapted, "tokens from 8 on"),
    ],
)
def test_the_part_is_told(kind: type[Sound], part: str, run: Run) -> None:
    found = [each.part for each in run(kind).failures() if isinstance(each, PartIgnored)]
    assert found
    assert set(found) == {part}


def test_a_failure_says_what_was_planted_expected_and_came(run: Run) -> None:
    first = run(faults.Ignored).failures()[0]
    assert isinstance(first, AdapterIgnored)
    assert first.check == "all_linear"
    words = str(first)
    for part in ("planted: all_linear: LoRA on q, k, v", "expected:", "came: the base", "floor:"):
        assert part in words
    assert ["at", "token", "expected", "given", "base"] in [
        line.split() for line in words.splitlines()
    ]
    told = first.to_dict()
    assert told["evidence"]["tokens"][0].keys() == {"token", "expected", "given", "base"}


def test_what_rests_on_a_failure_is_not_run(run: Run) -> None:
    report = run(faults.Ignored)
    seen = {result.check: result.outcome for result in report.results}
    assert seen["all_linear"] == "failed"
    assert seen["q"] == seen["reload"] == "not_run"
    assert not report.conforms


def test_the_report_is_json(run: Run) -> None:
    told = json.loads(json.dumps(run(faults.Overflowing).to_dict(), allow_nan=False))
    assert told["kit"] == "adapter"
    assert not told["conforms"]
    [check] = [each for each in told["checks"] if each["check"] == "q"]
    assert check["failures"][0]["fields"]["distance"] == "inf"


def test_a_name_in_use_that_is_refused_is_no_fault(run: Run) -> None:
    class Refusing(Sound):
        def load_adapter(self, name: str, path: str) -> None:
            if name in self.adapters:
                raise ValueError(f"{name} is loaded already")
            super().load_adapter(name, path)

    report = run(Refusing)
    assert report.conforms
    [reload] = [each for each in report.results if each.check == "reload"]
    assert reload.outcome == "skipped"


def test_expected_failures_are_no_failures_and_a_stale_one_is(
    ground: Ground, arithmetic: Arithmetic
) -> None:
    def of(kind: type[Sound]) -> Report:
        return check_on(
            ground, lambda: kind(arithmetic), expected_failures={"head": "no LoRA there"}
        )

    known = of(faults.HeadRefused)
    assert known.conforms
    assert known.failures() == ()
    stale = of(Sound)
    assert not stale.conforms
    assert "stale" in stale.outcomes


def test_what_is_known_to_fail_holds_nothing_up(ground: Ground, arithmetic: Arithmetic) -> None:
    report = check_on(
        ground, lambda: faults.KeysIgnored(arithmetic), expected_failures={"all_linear": "no keys"}
    )
    seen = {result.check: result.outcome for result in report.results}
    assert (seen["all_linear"], seen["k"], seen["two_adapters"]) == ("expected", "failed", "failed")


def test_a_run_in_which_no_adapter_was_judged_is_no_pass() -> None:
    base = CheckResult("base", "passed")
    assert not Report("quick", (base, CheckResult("q", "skipped")), 5e-4).conforms
    assert Report("quick", (base, CheckResult("q", "passed")), 5e-4).conforms


def test_the_first_failure_can_be_raised(
    ground: Ground, arithmetic: Arithmetic, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _already_made(ground, monkeypatch)
    with pytest.raises(SubjectFailed, match="one for each token after the first"):
        check_adapter_fidelity(lambda: faults.OneValueTooMany(arithmetic), folder, raises=True)


def test_what_cant_be_planted_is_told_each_time(ground: Ground) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=r"q changes a token's log-probability by"):
            ground.plant("q", 1e9, 5e-4)


def test_adapters_that_cant_be_far_apart_are_planted_nearer(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weak(exact: Any, recipe: Any, folder: Path, *, effect: float, texts: Any) -> Plant:
        if effect > 0.5:
            raise UnsupportedModelError(f"{effect:g} nats are too far")
        return Plant(recipe, str(folder), effect, 1.0)

    monkeypatch.setattr(making, "plant", weak)
    monkeypatch.setattr(ground, "_plants", {})
    assert ground.plant("other", 0.3, 5e-4).effect == pytest.approx(0.3)
    with pytest.raises(UnsupportedModelError, match="too far"):
        ground.plant("other", 0.6, 5e-4)


def test_bad_input_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="quick, full"):
        check_adapter_fidelity(object, tmp_path, profile="slow")
    with pytest.raises(ModelLoadError):
        check_adapter_fidelity(object, tmp_path / "nowhere")


def test_each_check_is_a_test(
    ground: Ground, arithmetic: Arithmetic, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _already_made(ground, monkeypatch)
    checks = {each.name: each for each in adapter_checks(lambda: faults.Halved(arithmetic), folder)}
    with pytest.raises(WrongScale):
        checks["q"]()
    with pytest.raises(SkipTest, match="no module of this kind"):
        checks["qkv"]()
    with pytest.raises(WrongScale):
        checks["all_linear"]()
    with pytest.raises(SkipTest, match="rests on all_linear"):
        checks["two_adapters"]()


def _already_made(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and adapters are those of the other tests."""
    from contextlib import nullcontext

    from forwardcache.conformance.adapter import run as running

    for module in (running, front):
        monkeypatch.setattr(module, "ground_of", lambda *_: nullcontext(ground))

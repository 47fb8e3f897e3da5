"""Claims: the checks of the matrix find what is wrong, refused, broken, and who never answers."""

import dataclasses
import sys
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend, HFEngine, HFView
from forwardcache.hf.spec import null, scaled
from tests.hf import tiny
from tests.hf.adapter_cases import CASES, Case
from tools.matrix import adapters
from tools.matrix.cases import cases, made
from tools.matrix.oracle import Oracle, distance
from tools.matrix.pool import verdicts
from tools.matrix.scoring import Scored, scoring
from tools.matrix.shrink import _fewer, shrunk
from tools.matrix.streams import streams
from tools.matrix.verdict import Finding, ModelError, Verdict

ECHO = 'print(\'{"name": "%s", "group": "type", "parts": {}}\' % line.strip(), flush=True)'

HALF = scaled(0.5)
NOISE = null(adapters.SEED + 1, 0.02, 1.0)


def of_a_fresh_copy(change: Any) -> tuple[Any, Scored, Oracle]:
    """A model that is changed, and what the model was before."""
    model, before = tiny.llama(), tiny.llama()
    with torch.no_grad():
        change(model)
    return model, Scored(Oracle(before), tiny.tokenizer()), Oracle(before)


def test_values_of_another_model_are_wrong() -> None:
    model, scored, _ = of_a_fresh_copy(lambda model: model.lm_head.weight[7].add_(0.01))
    found = scoring(lambda **options: HFBackend(model, tiny.tokenizer(), **options), scored)
    assert found.outcome == "WRONG"
    assert "nats" in found.reason


def test_streams_of_another_model_are_wrong() -> None:
    model, _, oracle = of_a_fresh_copy(lambda model: model.lm_head.weight.mul_(-1))
    found = streams(HFBackend(model, tiny.tokenizer()), oracle, frozenset({1}))
    assert found.outcome == "WRONG"
    assert "token 1" in found.reason


class Faulty:
    """A backend one of whose methods is a little off."""

    def __init__(self, backend: HFBackend, method: str) -> None:
        self._backend, self._method = backend, method

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name != self._method:
            return found
        return lambda *items, **options: off(found(*items, **options))


def off(value: Any) -> Any:
    """The value, the last one of many, 0.05 nats away from what it was."""
    if isinstance(value, list):
        return [*value[:-1], off(value[-1])]
    if isinstance(value, float):
        return value + 0.05
    return dataclasses.replace(value, logprobs=value.logprobs + np.float32(0.05))


@pytest.mark.parametrize("form", ["", "_batch"])
@pytest.mark.parametrize("operation", ["next_token_dist", "rolling_logprob", "logprob_of"])
def test_a_fault_of_one_method_is_found_and_named(operation: str, form: str) -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()

    def make(**options: Any) -> Any:
        return Faulty(HFBackend(model, tokenizer, **options), operation + form)

    found = scoring(make, Scored(Oracle(model), tokenizer))
    assert found.outcome == "WRONG"
    assert found.reason.startswith(f"{operation} in a batch: " if form else f"{operation}: ")


class Distracted(HFEngine):
    """Gives another token to a stream that isn't alone."""

    async def generate(self, request: Any, context: Any) -> Any:
        async for chunk in super().generate(request, context):
            shift = int(self.in_flight > 1)
            yield chunk | {"token_ids": [token + shift for token in chunk["token_ids"]]}


def test_a_fault_of_streams_that_are_joined_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.matrix.streams.HFEngine", Distracted)
    model = tiny.llama()
    found = streams(HFBackend(model, tiny.tokenizer()), Oracle(model), frozenset({1}))
    assert found.outcome == "WRONG"
    assert found.reason.startswith("streams joined: ")


def test_a_base_view_of_other_weights_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def other() -> Any:
        return tiny.sharpened(tiny.llama(), 1.1)

    monkeypatch.setitem(CASES, "other", Case(CASES["LoRA"].make, base=other))
    verdict = adapters.examined("other", tiny.tokenizer())
    assert [kind for kind, part in verdict.parts.items() if part.outcome == "WRONG"] == ["base"]


def test_a_scaled_and_a_null_view_of_another_adapter_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapters, "LAMBDA", 0.51)
    monkeypatch.setattr(HFBackend, "as_scaled_adapter", lambda one, _: HFView(one._scorer, HALF))
    monkeypatch.setattr(HFBackend, "as_null_adapter", lambda one, _: HFView(one._scorer, NOISE))
    verdict = adapters.examined("LoRA", tiny.tokenizer())
    wrong = [kind for kind, part in verdict.parts.items() if part.outcome == "WRONG"]
    assert wrong == ["scaled", "null"]


def test_a_model_that_sees_what_follows_is_no_oracle_of_itself() -> None:
    case = cases()["bert seeing all"]
    oracle = Oracle(made(case))
    row = list(range(10, 30))
    places = range(1, len(row))
    assert distance(oracle.scored(row), oracle.causal(row, places)) > 0.01
    llama = Oracle(tiny.llama())
    assert distance(llama.scored(row), llama.causal(row, places)) < 1e-5


def test_the_greedy_loop_ends_where_two_tokens_are_equally_likely() -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[9] = model.lm_head.weight[8]
        model.lm_head.weight[8:10] *= 50
    found = Oracle(model).greedy([10, 11, 12], 5, frozenset())
    assert len(found) < 5


def test_what_a_check_raises_decides_its_outcome() -> None:
    raised = {
        "refused": UnsupportedModelError("not causal"),
        "crash": RuntimeError("shape"),
        "WRONG": ModelError("no such row"),
    }
    for outcome, error in raised.items():
        finding = Finding()
        finding.check("x", lambda: 0.0)
        finding.check("x", Mock(side_effect=error))
        finding.check("x", lambda: 0.0)
        assert finding.outcome == outcome
        assert str(error) in finding.reason


def test_the_worst_of_several_outcomes_stays() -> None:
    finding = Finding()
    for outcome in ("ok", "WRONG", "crash", "refused", "ok"):
        finding.add(outcome, outcome)
    assert (finding.outcome, finding.reason) == ("WRONG", "WRONG")


def test_a_process_that_dies_or_hangs_is_a_crash_of_its_case_alone() -> None:
    program = (
        "import os, sys, time\n"
        "for line in sys.stdin:\n"
        " if line == 'dies\\n': os._exit(3)\n"
        " if line == 'hangs\\n': time.sleep(600)\n"
        f" {ECHO}\n"
    )
    names = ["one", "dies", "two", "hangs", "three"]
    asked = [(name, "type") for name in names]
    command = (sys.executable, "-c", program)
    # On a busy machine any case may take two seconds, and none takes so many times as long.
    for limit_s in (2, 20, 90):
        verdict = verdicts(asked, processes=1, limit_s=limit_s, command=command)
        found = {each.name: each for each in verdict}
        assert found.keys() == set(names)
        failed = [name for name in names if found[name].failures]
        reasons = [found[name].parts["scoring"].reason for name in failed]
        if failed == ["dies", "hangs"] and "exited with 3" in reasons[0]:
            break
    assert failed == ["dies", "hangs"]
    assert "exited with 3" in reasons[0]
    assert f"no verdict within {limit_s} s" in reasons[1]


def test_a_verdict_survives_its_way_between_processes() -> None:
    verdict = Verdict("one", "type", {"scoring": Finding("ok", 0.5, "r")}, "packed", ["n"])
    assert Verdict.of_data(verdict.as_data()) == verdict


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("layer_types", ["s"] * 5 + ["f"], ["s", "f", "s", "f"]),
        ("mlp_layer_types", ["dense"] + ["sparse"] * 9, ["dense", "dense", "sparse", "sparse"]),
        ("moe_layers", list(range(48)), [0, 1, 2, 3]),
    ],
)
def test_every_kind_of_layer_stays(name: str, values: list[Any], expected: list[Any]) -> None:
    assert _fewer(name, values, 4) == expected


def test_a_small_configuration_keeps_a_window_shorter_than_the_texts() -> None:
    config = shrunk("gemma2", {})
    assert config.sliding_window == 8
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.vocab_size == tiny.VOCAB


def test_the_cases_have_every_type_once() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    types = [case.model_type for case in cases().values() if case.group == "type"]
    assert types == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

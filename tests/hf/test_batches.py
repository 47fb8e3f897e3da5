"""Claims: every op, single and batched, equals one forward a prompt, whatever the batch holds.

The oracle is ``tiny.logprobs_after``: one prompt, all logits, a full log-softmax.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.scoring import RollingLogprob, TokenDist
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.tolerance import TOLERANCE

MODELS = ["llama", "gpt2", "llama+lora", "gpt2+lora"]
PROMPTS = list(tiny.PROMPTS)
PAIRS = [
    (prompt, completion) for prompt in PROMPTS[:5] for completion in (" dog", "s and again", "x")
]


def hold_to_same_values(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=TOLERANCE)


def oracle_dist(model: Any, ids: Any) -> Any:
    return tiny.logprobs_after(model, ids)[-1].numpy()


def oracle_scored(model: Any, ids: Any, first: int) -> Any:
    logprobs = tiny.logprobs_after(model, ids)
    return np.array(
        [float(logprobs[position - 1, ids[position]]) for position in range(first, len(ids))]
    )


@pytest.mark.parametrize("name", MODELS)
def test_next_token_dist_equals_the_oracle(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    batched = make_backend(name).next_token_dist_batch(PROMPTS, top_k=10)
    single = make_backend(name)
    for prompt, dist in zip(PROMPTS, batched, strict=True):
        truth = oracle_dist(shared_models[name], tokenizer(prompt)["input_ids"])
        np.testing.assert_allclose(dist.logprobs, truth[dist.token_ids], atol=TOLERANCE)
        assert dist.token_ids.tolist() == np.argsort(-truth)[:10].tolist()
        rest = np.setdiff1d(np.arange(tiny.VOCAB), dist.token_ids)
        assert dist.tail_logprob == pytest.approx(np.logaddexp.reduce(truth[rest]), abs=TOLERANCE)
        alone = single.next_token_dist(prompt, top_k=10)
        np.testing.assert_allclose(alone.logprobs, dist.logprobs, atol=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_rolling_logprob_equals_the_oracle(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    single = make_backend(name)
    for text, value in zip(PROMPTS, make_backend(name).rolling_logprob_batch(PROMPTS), strict=True):
        ids = tokenizer(text)["input_ids"]
        truth = oracle_scored(shared_models[name], ids, 1)
        assert value.token_ids.tolist() == ids
        assert value.num_tokens == len(ids)
        np.testing.assert_allclose(value.logprobs, truth, atol=TOLERANCE)
        assert value.total_logprob == pytest.approx(truth.sum(), abs=1e-3)
        np.testing.assert_allclose(
            single.rolling_logprob(text).logprobs, value.logprobs, atol=TOLERANCE
        )


@pytest.mark.parametrize("name", MODELS)
def test_logprob_of_equals_the_oracle(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    single = make_backend(name)
    for (prompt, completion), value in zip(
        PAIRS, make_backend(name).logprob_of_batch(PAIRS), strict=True
    ):
        joint = tokenizer(prompt + completion, return_offsets_mapping=True)
        ids = joint["input_ids"]
        first = next(
            index for index, (_, end) in enumerate(joint["offset_mapping"]) if end > len(prompt)
        )
        truth = oracle_scored(shared_models[name], ids, first).sum()
        assert type(value) is float
        assert value == pytest.approx(truth, abs=TOLERANCE * len(ids))
        assert single.logprob_of(prompt, completion) == pytest.approx(value, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2"])
def test_results_do_not_depend_on_order_or_batch(name: str, make_backend: MakeBackend) -> None:
    first = make_backend(name).rolling_logprob_batch(PROMPTS)
    order = list(range(len(PROMPTS)))
    random.Random(5).shuffle(order)
    shuffled = make_backend(name, token_budget=17).rolling_logprob_batch(
        [PROMPTS[index] for index in order] + ["some more texts for the batch"]
    )
    for index, value in zip(order, shuffled, strict=False):
        np.testing.assert_allclose(value.logprobs, first[index].logprobs, atol=TOLERANCE)


def run_in(backend: HFBackend, batches: Any, **others: Any) -> None:
    """Lets the backend's model run its batches in no other way."""
    ways = backend._scorer.ways_in(backend._scorer.own_spec())
    only = replace(ways, batches=batches, **others)
    backend._scorer.admissions.ways = lambda *_: only  # type: ignore[method-assign]


@pytest.mark.parametrize("name", ["llama+lora", "gpt2"])
@pytest.mark.parametrize("batches", ["packed", "padded"])
@pytest.mark.parametrize("max_logit_bytes", [1, 4 * tiny.VOCAB * 7])
def test_a_bound_on_logits_changes_no_value(
    name: str, batches: str, max_logit_bytes: int, make_backend: MakeBackend
) -> None:
    free, bound = make_backend(name), make_backend(name, max_logit_bytes=max_logit_bytes)
    run_in(bound, batches)
    hold_to_same_values(free.rolling_logprob_batch(PROMPTS), bound.rolling_logprob_batch(PROMPTS))
    assert bound.logprob_of_batch(PAIRS) == pytest.approx(
        free.logprob_of_batch(PAIRS), abs=TOLERANCE
    )


def test_the_head_sees_no_more_positions_at_once_than_the_bound(
    make_backend: MakeBackend, shared_models: Any, head_positions: list[int]
) -> None:
    backend = make_backend("llama", max_logit_bytes=4 * tiny.VOCAB * 9)
    backend.rolling_logprob_batch(PROMPTS)
    assert max(head_positions) == 9
    assert "forward" not in vars(shared_models["llama"].model)


def test_next_token_dist_asks_the_head_for_one_position_a_row(
    make_backend: MakeBackend, head_positions: list[int]
) -> None:
    make_backend("llama").next_token_dist_batch(PROMPTS)
    assert sum(head_positions) == len(PROMPTS)


@pytest.mark.parametrize("batches", ["packed", "padded"])
@pytest.mark.parametrize("modes", [["rows", "shared"], ["shared"], ["full"]])
def test_every_way_to_ask_for_positions_gives_the_same(
    modes: Any, batches: str, make_backend: MakeBackend
) -> None:
    backend, other = make_backend("llama+lora"), make_backend("llama+lora")
    other._scorer.runner._modes = modes
    run_in(other, batches)
    hold_to_same_values(
        backend.next_token_dist_batch(PROMPTS), other.next_token_dist_batch(PROMPTS)
    )
    assert other.logprob_of_batch(PAIRS) == pytest.approx(
        backend.logprob_of_batch(PAIRS), abs=TOLERANCE
    )


def test_a_model_that_ignores_logits_to_keep_is_found_out_by_the_shape(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, other = make_backend("llama"), make_backend("llama")
    call = ForwardRunner._call
    monkeypatch.setattr(ForwardRunner, "_call", lambda self, rows, **_: call(self, rows, **{}))
    found = other.next_token_dist_batch(PROMPTS)
    assert other._scorer.runner._modes == ["full"]
    monkeypatch.undo()
    for left, right in zip(backend.next_token_dist_batch(PROMPTS), found, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=TOLERANCE)


def test_a_model_that_is_not_known_to_be_causal_gets_a_mask(
    make_backend: MakeBackend,
) -> None:
    plain, masked = make_backend("llama"), make_backend("llama")
    run_in(masked, "padded", is_masked=True)
    hold_to_same_values(plain.next_token_dist_batch(PROMPTS), masked.next_token_dist_batch(PROMPTS))


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_logprobs_at_equals_next_token_dist(name: str, make_backend: MakeBackend) -> None:
    backend = make_backend(name)
    dists = backend.next_token_dist_batch(PROMPTS, top_k=9)
    ids = [dist.token_ids[: 9 - index] for index, dist in enumerate(dists)]
    for dist, found in zip(dists, backend.logprobs_at_batch(PROMPTS, ids), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, dist.logprobs[: len(found)], atol=1e-5)
    alone = backend.logprobs_at(PROMPTS[0], ids[0])
    np.testing.assert_allclose(alone, dists[0].logprobs, atol=TOLERANCE)
    with pytest.raises(ValueError, match="read-only"):
        alone[0] = 0.0
    with backend.as_finetuned() as ft:
        whole = ft.token_dist_at(PROMPTS[0], dists[0].token_ids)
    assert whole.tail_logprob == pytest.approx(dists[0].tail_logprob, abs=TOLERANCE)


def test_a_short_text_scores_nothing_and_runs_nothing(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend("llama")
    monkeypatch.setattr(ForwardRunner, "_call", None)
    expected = RollingLogprob(np.array([0]), np.array([]), 1, 0.0)
    assert backend.rolling_logprob("") == expected
    assert backend.rolling_logprob_batch([""]) == [expected]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_on_a_cpu_and_batch_is_near_single(dtype: Any, tokenizer: Any) -> None:
    from forwardcache.hf import HFBackend

    model = tiny.with_lora(tiny.llama(dtype=dtype))
    batched = HFBackend(model, tokenizer).rolling_logprob_batch(PROMPTS)
    single = HFBackend(model, tokenizer)
    for text, value in zip(PROMPTS, batched, strict=True):
        assert value.is_finite
        np.testing.assert_allclose(value.logprobs, single.rolling_logprob(text).logprobs, atol=0.2)


def test_values_are_of_the_contracts_types(make_backend: MakeBackend) -> None:
    backend = make_backend()
    assert type(backend.next_token_dist("hello")) is TokenDist
    assert type(backend.rolling_logprob("hello world")) is RollingLogprob
    assert type(backend.logprob_of("hello", " world")) is float


def test_equal_tokens_run_once(make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    call = ForwardRunner._call

    def counting(self: ForwardRunner, batch: Any, **kept: Any) -> Any:
        rows.append(len(batch))
        return call(self, batch, **kept)

    monkeypatch.setattr(ForwardRunner, "_call", counting)
    backend = make_backend("llama")
    first, second = backend.logprob_of_batch([("hello wo", "rld"), ("hello w", "orld")])
    assert first == second
    assert sum(rows) == 1

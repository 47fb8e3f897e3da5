"""Claims: a computation tells its dtype, batches and plan; a view's noise floor is its distance
from itself in other batches; a batch that memory refused leaves an event.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache import TraceWriter, prompt_hash
from forwardcache.errors import InvalidInputError
from forwardcache.observe import read_trace
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.hf.test_memory import ERRORS, Memory
from tests.instrumentation.together import INHERITS
from tests.patience import HANG_S

PROMPTS = list(tiny.PROMPTS)
PAIRS = [(prompt, " fox") for prompt in PROMPTS]


def test_a_computation_tells_what_it_ran(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", token_budget=32)
    with backend.provenance() as computed:
        backend.next_token_dist_batch(PROMPTS, top_k=8)
    [one] = computed
    assert (one.op, one.view_id, one.dtype, one.device) == (
        "next_token_dist", "base", "float32", "cpu",
    )  # fmt: skip
    assert (one.token_budget, one.out_of_memory) == (32, 0)
    items = [item for batch in one.batches for item in batch.items]
    assert sorted(items) == list(range(len(PROMPTS)))
    assert all(batch.tokens <= batch.positions <= 32 for batch in one.batches)
    assert 0.0 <= one.padding <= 0.1
    lengths: list[Any] = backend.token_lengths(PROMPTS, op="next_token_dist")
    assert sum(batch.tokens for batch in one.batches) == sum(lengths)


def test_what_is_cached_ran_nothing(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    backend.next_token_dist_batch(PROMPTS, top_k=8)
    with backend.provenance() as computed:
        backend.next_token_dist_batch(PROMPTS, top_k=8)
        backend.next_token_dist(PROMPTS[0], top_k=8)
    assert computed == []


def test_the_digest_is_that_of_the_batches(make_backend: MakeBackend) -> None:
    def digest(prompts: list[str], **options: Any) -> str:
        with (backend := make_backend("llama", **options)).provenance() as computed:
            backend.rolling_logprob_batch(prompts)
        return str(computed[0].plan_digest)

    assert digest(PROMPTS) == digest(PROMPTS)
    assert digest(PROMPTS) != digest(PROMPTS[:-1])
    assert digest(PROMPTS) != digest(PROMPTS, token_budget=16)


def test_a_prefix_that_was_shared_is_told(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    prompt = "the quick brown fox jumps over the lazy dog and the hello world"
    with backend.provenance() as computed:
        backend.logprob_of_batch([(prompt, f" {number}") for number in range(16)])
    assert any(batch.prefix > 0 for batch in computed[0].batches)


def test_each_thread_collects_its_own(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    found: dict[str, list[Any]] = {}

    def score(prompt: str) -> None:
        with backend.provenance() as computed:
            backend.next_token_dist(prompt, top_k=8)
        found[prompt] = computed

    # Begun before: one that is begun inside may inherit the context.
    begun = threading.Barrier(len(PROMPTS) + 1)
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        for _ in PROMPTS:
            threads.submit(begun.wait, HANG_S)
        begun.wait(HANG_S)
        with backend.provenance() as mine:
            list(threads.map(score, PROMPTS))
    assert {prompt: len(computed) for prompt, computed in found.items()} == dict.fromkeys(
        PROMPTS, 1
    )
    assert mine == []


def test_a_thread_begun_inside_is_collected_if_it_inherits_the_context(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend("llama")
    with backend.provenance() as computed:
        thread = threading.Thread(target=backend.next_token_dist, args=("hello",))
        thread.start()
        thread.join()
    assert [one.op for one in computed] == ["next_token_dist"] * INHERITS


def test_collections_may_be_nested(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    with backend.provenance() as outer:
        backend.next_token_dist("a", top_k=8)
        with backend.provenance() as inner:
            backend.next_token_dist("hello", top_k=8)
    assert (len(outer), len(inner)) == (2, 1)


# The noise floor


@pytest.mark.parametrize("op", ["next_token_dist", "rolling_logprob", "logprob_of"])
def test_in_float32_the_floor_is_next_to_nothing(op: str, make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    floor = backend.noise_floor(PAIRS if op == "logprob_of" else PROMPTS, op, top_k=16)
    assert (floor.op, floor.dtype, floor.prompts) == (op, "float32", len(PROMPTS))
    assert 0.0 <= floor.mean_nats <= floor.max_nats < 1e-4


def test_a_model_whose_rows_depend_on_their_batch_has_a_floor(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)

    def disturb(_module: Any, _inputs: Any, output: Any) -> Any:
        return output + 0.01 * output.shape[:-1].numel()

    scale = backend.model.model.norm.register_forward_hook(disturb)
    floor = backend.noise_floor(PROMPTS, top_k=16)
    scale.remove()
    assert floor.max_nats > 1e-4


def test_the_floor_is_run_past_the_cache_and_keeps_nothing(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    before = backend.stats.snapshot()
    with backend.provenance() as computed:
        backend.noise_floor(PROMPTS, top_k=8, sample=3)
    assert backend.stats == before
    assert len(backend.instrumentation.cache) == 0
    together, *alone = computed
    assert sum(len(batch.items) for batch in together.batches) == 3
    assert [len(one.batches) for one in alone] == [1, 1, 1]


def test_the_sample_is_spread_evenly_and_always_the_same(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    many = [f"hello {number}" for number in range(40)]
    assert backend.noise_floor(many, top_k=8, sample=5).prompts == 5
    assert backend.noise_floor(many, top_k=8) == backend.noise_floor(many, top_k=8)


def test_prompts_that_cannot_be_scored_are_left_out(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    assert backend.noise_floor([*PROMPTS, "fox " * 100], top_k=8).prompts == len(PROMPTS)


def test_the_floor_is_that_of_the_view_it_is_asked_for(make_backend: MakeBackend) -> None:
    backend = make_backend()
    floors = [
        backend.noise_floor(PROMPTS, view=view, top_k=8)
        for view in (backend.as_base(), backend.as_finetuned())
    ]
    assert all(np.isfinite(floor.mean_nats) for floor in floors)
    with backend.provenance() as computed:
        backend.noise_floor(PROMPTS, view=backend.as_scaled_adapter(0.5), top_k=8)
    assert {one.view_id for one in computed} == {"scaled_0.50"}


@pytest.mark.parametrize(
    ("items", "op", "words"),
    [([], "next_token_dist", "at least one item"), (["a"], "logprobs_at", "no noise floor")],
)
def test_a_floor_of_nothing_is_refused(
    items: list[str], op: str, words: str, make_backend: MakeBackend
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        make_backend("llama").noise_floor(items, op)


# Memory


def test_a_batch_that_does_not_fit_leaves_an_event(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    backend = make_backend("llama", copied=True)
    backend.instrumentation.trace = TraceWriter(tmp_path / "trace.jsonl")
    Memory(backend.model, 30, ERRORS[0])
    with backend.provenance() as computed:
        backend.next_token_dist_batch(PROMPTS, top_k=8)
    backend.instrumentation.close()
    events: list[Any] = list(read_trace(tmp_path / "trace.jsonl"))
    refused = [event for event in events if event.error == "OutOfMemoryError"]
    assert len(refused) == backend.out_of_memory_batches == computed[0].out_of_memory > 0
    for event in refused:
        assert (event.op, event.view_id, event.top_k, event.hit) == (
            "next_token_dist", "base", 8, False,
        )  # fmt: skip
        assert event.prompt_hash in {prompt_hash(prompt) for prompt in PROMPTS}
        assert event.wall_ms >= 0.0
    assert len(events) == len(refused) + len(PROMPTS)


# Limits


@pytest.mark.parametrize("limit", ["token_budget", "max_logit_bytes"])
@pytest.mark.parametrize("value", [0, -5, 1.5, True])
def test_limits_are_positive_integers(limit: str, value: Any, make_backend: MakeBackend) -> None:
    with pytest.raises(InvalidInputError, match=f"{limit} must be an integer of at least 1, got"):
        make_backend("llama", **{limit: value})


@pytest.mark.parametrize("value", [0, 2.5, True])
def test_new_tokens_are_a_positive_integer(value: Any, make_backend: MakeBackend) -> None:
    with pytest.raises(InvalidInputError, match="max_new_tokens"):
        make_backend("llama").generate("a", max_new_tokens=value)


def test_half_precision_is_told_by_its_name(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)
    backend.model.to(torch.bfloat16)
    floor = backend.noise_floor(PROMPTS, top_k=16)
    assert floor.dtype == "bfloat16"
    assert 0.0 <= floor.max_nats < 0.1

"""Claims: a smaller top_k is served from a larger cached one, as an ordinary hit, and equals a
direct call: ties are broken alike for every top_k."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forwardcache.divergence import narrowed
from forwardcache.hf.batch.kernels import top_dists
from forwardcache.instrumentation import BackendInstrumentation
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.hf.long_way import LookAlike

PROMPTS = list(tiny.PROMPTS)


def test_a_smaller_top_k_runs_nothing_and_equals_a_direct_call(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    backend, direct = make_backend(trace_path=trace), make_backend()
    backend.next_token_dist_batch(PROMPTS, top_k=64)
    single = [backend.next_token_dist(prompt, top_k=8) for prompt in PROMPTS[:3]]
    batch = backend.next_token_dist_batch(PROMPTS, top_k=8)
    stats = backend.stats
    assert (stats.cache_misses, stats.cache_hits) == (len(PROMPTS), len(PROMPTS) + 3)
    for dist, expected in zip(batch, direct.next_token_dist_batch(PROMPTS, top_k=8), strict=True):
        assert dist.token_ids.tolist() == expected.token_ids.tolist()
        assert dist.logprobs.tolist() == expected.logprobs.tolist()
        assert dist.tail_logprob == pytest.approx(expected.tail_logprob, abs=1e-5)
    assert single == batch[:3]
    backend.close()
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [(event["top_k"], event["hit"]) for event in events[len(PROMPTS) :]] == [
        (8, True)
    ] * len(single + batch)


def test_only_the_same_view_and_model_state_serve_a_slice(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    with backend.as_base() as base:
        base.next_token_dist(PROMPTS[0], top_k=64)
    backend.next_token_dist(PROMPTS[0], top_k=8)
    assert backend.stats.cache_misses == 2
    backend.next_token_dist(PROMPTS[0], top_k=64)
    backend.weights_changed()
    backend.next_token_dist(PROMPTS[0], top_k=8)
    assert backend.stats.cache_misses == 4


def test_a_larger_top_k_is_not_served_from_a_smaller_one(make_backend: MakeBackend) -> None:
    backend = make_backend()
    backend.next_token_dist(PROMPTS[0], top_k=8)
    assert len(backend.next_token_dist(PROMPTS[0], top_k=64).token_ids) == 64


def test_prompts_that_have_no_larger_one_are_computed(make_backend: MakeBackend) -> None:
    backend = make_backend()
    backend.next_token_dist_batch(PROMPTS[:4], top_k=64)
    found = backend.next_token_dist_batch(PROMPTS, top_k=8)
    assert backend.stats.cache_misses == len(PROMPTS)
    assert [len(dist.token_ids) for dist in found] == [8] * len(PROMPTS)


def test_a_cache_that_was_assigned_serves_slices_too(make_backend: MakeBackend) -> None:
    instrumentation = BackendInstrumentation()
    instrumentation.cache = LookAlike()
    backend = make_backend(instrumentation=instrumentation)
    backend.next_token_dist(PROMPTS[0], top_k=64)
    backend.next_token_dist(PROMPTS[0], top_k=8)
    assert (backend.stats.cache_misses, backend.stats.cache_hits) == (1, 1)


@given(
    st.lists(st.integers(-3, 3), min_size=2, max_size=40), st.integers(1, 45), st.integers(1, 45)
)
def test_a_slice_equals_the_direct_selection_also_with_ties(
    logits: list[int], top_k: int, larger: int
) -> None:
    row: Any = torch.tensor([logits], dtype=torch.float32)
    if larger < top_k:
        top_k, larger = larger, top_k
    found, direct = narrowed(top_dists(row, larger)[0], top_k), top_dists(row, top_k)[0]
    assert found.token_ids.tolist() == direct.token_ids.tolist()
    assert found.logprobs.tolist() == direct.logprobs.tolist()
    if direct.tail_logprob is None or found.tail_logprob is None:
        assert found.tail_logprob is direct.tail_logprob
    else:
        np.testing.assert_allclose(found.tail_logprob, direct.tail_logprob, atol=1e-5)

"""Claims: by default a backend's cache is bounded in bytes, and its values weigh what they hold."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forwardcache import BackendInstrumentation
from forwardcache.hf import HFBackend
from forwardcache.scoring import (
    HiddenStates,
    PositionDifferences,
    RollingLogprob,
    TokenDist,
    TopKByPosition,
)
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

PROMPT = "the quick brown fox"


def test_the_default_is_512_mib_and_no_limit_on_entries(make_backend: MakeBackend) -> None:
    cache = make_backend().instrumentation.cache
    assert (cache.maxsize, cache.max_bytes) == (None, 512 * 2**20)


def test_both_limits_can_be_chosen(make_backend: MakeBackend) -> None:
    cache = make_backend(cache_maxsize=3, cache_max_bytes=None).instrumentation.cache
    assert (cache.maxsize, cache.max_bytes) == (3, None)
    cache = make_backend(cache_maxsize=3, cache_max_bytes=10**6).instrumentation.cache
    assert (cache.maxsize, cache.max_bytes) == (3, 10**6)


def test_the_least_recently_used_values_go_when_the_bytes_are_full(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(cache_max_bytes=4096)
    prompts = [f"{prompt} {number}" for prompt in tiny.PROMPTS for number in range(3)]
    backend.next_token_dist_batch(prompts, top_k=8)
    cache = backend.instrumentation.cache
    assert 0 < len(cache) < len(prompts)
    assert cache.nbytes <= 4096
    assert cache.evictions == len(prompts) - len(cache)
    computed = backend.stats.forward_passes
    backend.next_token_dist(prompts[-1], top_k=8)
    assert backend.stats.forward_passes == computed
    backend.next_token_dist(prompts[0], top_k=8)
    assert backend.stats.forward_passes == computed + 1


def test_a_value_larger_than_the_whole_capacity_is_returned_and_not_kept(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(cache_max_bytes=1024)
    assert len(backend.next_token_dist(PROMPT, top_k=tiny.VOCAB).token_ids) == tiny.VOCAB
    assert len(backend.instrumentation.cache) == 0
    assert backend.instrumentation.cache.too_large == 1


def zeros(size: int) -> Any:
    return np.zeros(size, np.float32)


MAKERS: dict[str, Callable[[int], Any]] = {
    "dist": lambda size: TokenDist(np.arange(size), zeros(size), 10_000, -1.0),
    "rolling": lambda size: RollingLogprob(np.arange(size), zeros(size - 1), size, -1.5),
    "top k": lambda size: TopKByPosition(np.arange(4 * size), zeros(4 * size), zeros(size), 4),
    "states": lambda size: HiddenStates(
        np.arange(size), np.zeros((size, 4), np.uint16), "bfloat16"
    ),
    "differences": lambda size: PositionDifferences(
        np.arange(size), *[zeros(size - 1) for _ in range(9)]
    ),
}


@pytest.mark.thread_unsafe(reason="counts the memory of all threads")
@pytest.mark.parametrize("size", [1, 8, 256, 4096])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_value_weighs_what_it_holds(make: Callable[[int], Any], size: int) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        values = [make(size) for _ in range(200)]
        held = (tracemalloc.get_traced_memory()[0] - before) / len(values)
    finally:
        tracemalloc.stop()
    assert values[0].nbytes == pytest.approx(held, rel=0.15)


def test_an_instrumentation_that_was_given_keeps_its_own_capacity(
    make_backend: MakeBackend,
) -> None:
    given = BackendInstrumentation(cache_maxsize=2)
    backend: HFBackend = make_backend(instrumentation=given)
    backend.next_token_dist_batch(list(tiny.PROMPTS))
    assert len(backend.instrumentation.cache) == 2

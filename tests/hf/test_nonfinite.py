"""Claims: a NaN or infinity is returned and counted, and stored only where that is asked for."""

import math
from typing import Any

import pytest
import torch

from forwardcache.hf import HFBackend
from tests.hf.conftest import MakeBackend

GOOD, BAD = "hello", "the fox"


@pytest.fixture
def make_partly_broken(make_backend: MakeBackend, tokenizer: Any) -> Any:
    """A backend whose model gives NaN for texts with the last token of ``BAD``."""

    def make(**options: Any) -> HFBackend:
        backend = make_backend("llama", copied=True, **options)
        backend.model.requires_grad_(False)
        token = tokenizer(BAD)["input_ids"][-1]
        assert token not in tokenizer(GOOD)["input_ids"]
        backend.model.model.embed_tokens.weight[token] = torch.nan
        return backend

    return make


def test_a_value_that_is_not_finite_is_returned_counted_and_not_stored(
    make_partly_broken: Any,
) -> None:
    backend = make_partly_broken()
    for times in (1, 2):
        assert not backend.next_token_dist(BAD).is_finite
        assert math.isnan(backend.logprob_of(BAD, " x"))
        assert backend.nonfinite_results == 2 * times
    assert len(backend.instrumentation.cache) == 0


def test_it_is_stored_where_that_is_asked_for(make_partly_broken: Any) -> None:
    backend = make_partly_broken(store_nonfinite=True)
    first = backend.next_token_dist_batch([GOOD, BAD])
    assert [each.is_finite for each in first] == [True, False]
    again = backend.next_token_dist_batch([GOOD, BAD])
    assert all(left is right for left, right in zip(first, again, strict=True))
    assert (backend.nonfinite_results, backend.stats.forward_passes) == (1, 2)


def test_the_others_of_its_batch_are_stored_without_a_second_forward(
    make_partly_broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_partly_broken()
    forwards = []
    backend.model.register_forward_hook(lambda *_: forwards.append(1))
    found = backend.next_token_dist_batch([GOOD, BAD, "hello hello"])
    assert [each.is_finite for each in found] == [True, False, True]
    made = len(forwards)
    assert backend.next_token_dist(GOOD) is found[0]
    assert len(forwards) == made
    assert len(backend.instrumentation.cache) == 2


def test_hits_of_its_batch_count_once(make_partly_broken: Any) -> None:
    backend = make_partly_broken()
    known = backend.next_token_dist_batch([GOOD, "hello hello"])
    found = backend.next_token_dist_batch([GOOD, BAD, "hello hello", "a a"])
    assert [found[0], found[2]] == known
    assert backend.stats.cache_hits == 2


def test_every_miss_is_a_forward_pass_or_a_failed_compute(make_partly_broken: Any) -> None:
    backend = make_partly_broken()
    stats = backend.stats
    backend.next_token_dist(BAD)
    assert (stats.cache_misses, stats.forward_passes, stats.failed_computes) == (1, 0, 1)
    backend.next_token_dist_batch([GOOD, BAD])
    backend.rolling_logprob_batch([BAD, GOOD, BAD])
    assert stats.cache_misses == stats.forward_passes + stats.failed_computes
    failed = stats.failed_computes
    backend.next_token_dist_batch([GOOD, "hello hello"])
    assert stats.failed_computes == failed

"""Claims: ``top_k_at_each_position`` gives, at each place of given tokens, the k largest of a plain
log-softmax and the mass of the others, ties by rising id; batches agree with singles; a value goes
through cache and store as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from forwardcache.errors import InvalidInputError, ViewParameterError
from forwardcache.hf.batch.kernels import top_k_kernel, top_k_of
from forwardcache.operations.top_k_at_each_position import TopKAtEachPosition
from forwardcache.scoring import TopKByPosition
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.tolerance import hold_to_tolerance

OP = "top_k_at_each_position"
ITEMS = [((0, 5, 9), (11, 4, 4, 7)), ((0,), (8,)), ((0, 3), (3, 3, 3, 9, 12, 200, 17))]


def test_a_value_is_the_top_of_a_plain_log_softmax(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", max_logit_bytes=3 * 4 * tiny.VOCAB)
    found = backend.values(OP, ITEMS, top_k=5)
    for (context, continuation), value in zip(ITEMS, found, strict=True):
        logprobs = tiny.logprobs_after(backend.model, context + continuation[:-1])
        logprobs = logprobs[len(context) - 1 :].float()
        expected, ids = torch.sort(logprobs, dim=-1, descending=True, stable=True)
        assert (len(value), value.k) == (len(continuation), 5)
        assert value.token_ids.reshape(-1, 5).tolist() == ids[:, :5].tolist()
        assert value.logprobs == pytest.approx(expected[:, :5].flatten().tolist(), abs=1e-4)
        tails = expected[:, 5:].logsumexp(-1)
        assert value.tail_logprobs == pytest.approx(tails.tolist(), abs=1e-4)
        singles = backend.values(OP, [(context, continuation)], top_k=5)
        assert singles[0] is value


def test_batches_agree_with_singles_and_views_differ(make_backend: MakeBackend) -> None:
    with make_backend("llama+lora").as_finetuned() as view:
        together = view.values(OP, ITEMS, top_k=7)
    backend = make_backend("llama+lora")
    with backend.as_finetuned() as view:
        hold_to_tolerance([view.values(OP, [item], top_k=7)[0] for item in ITEMS], together)
    with backend.as_base() as view:
        base = view.values(OP, ITEMS, top_k=7)
    assert not TopKAtEachPosition(7).is_same(base[0], together[0], 1e-4)


def test_ties_go_to_the_lowest_ids() -> None:
    logits = torch.zeros(2, 9)
    logits[1, [7, 2]] = 1.0
    ids, logprobs, tails = top_k_of(top_k_kernel(4)(logits, torch.zeros(2)))
    assert ids.tolist() == [[0, 1, 2, 3], [2, 7, 0, 1]]
    assert logprobs[0] == pytest.approx(np.full(4, -np.log(9)))
    assert tails[0] == pytest.approx(np.log(5 / 9))


def test_more_than_the_vocabulary_means_all(make_backend: MakeBackend) -> None:
    [value] = make_backend("llama").values(OP, ITEMS[:1], top_k=10**6)
    assert value.k == tiny.VOCAB
    assert np.isneginf(value.tail_logprobs).all()
    assert value.is_finite


def test_a_kept_value_is_the_one_that_was_computed(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    store = str(tmp_path / "values.sqlite")
    with make_backend("llama", store=store, identity="strict") as backend:
        computed = backend.values(OP, ITEMS, top_k=3)
    later = make_backend("llama", store=store, identity="strict")
    assert later.values(OP, ITEMS, top_k=3) == computed
    assert later.stats.forward_passes == 0
    assert later.values(OP, ITEMS, top_k=4)[0].k == 4
    assert len({*computed, *later.values(OP, ITEMS, top_k=3)}) == len(ITEMS)


def test_what_cannot_be_asked_is_refused(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    with pytest.raises(ViewParameterError, match="top_k must be an integer of at least 1, got 0"):
        backend.values(OP, ITEMS, top_k=0)
    with pytest.raises(InvalidInputError, match="64"):
        backend.values(OP, [((0,), (1,) * tiny.CONTEXT * 2)])
    with pytest.raises(InvalidInputError, match="need 6 entries of logprobs, got 5"):
        TopKByPosition(np.arange(6), np.zeros(5, np.float32), np.zeros(3, np.float32), 2)

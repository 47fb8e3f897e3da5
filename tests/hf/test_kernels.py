"""Claims: ties are broken by rising id, tails lose nothing to cancellation, ids keep the caller's
order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forwardcache.hf.batch.kernels import dists_at, token_logprobs, top_dists


def by_definition(logprobs: torch.Tensor, k: int) -> list[int]:
    """Falling log-probability, then rising id."""
    return sorted(range(len(logprobs)), key=lambda token: (-float(logprobs[token]), token))[:k]


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=40), st.integers(1, 45))
def test_top_k_breaks_ties_by_rising_id(logits: list[int], k: int) -> None:
    row = torch.tensor([logits], dtype=torch.float32)
    (dist,) = top_dists(row, k)
    assert dist.token_ids.tolist() == by_definition(row.log_softmax(-1)[0], k)


def test_rows_with_and_without_ties_at_the_edge_share_a_batch() -> None:
    rows = torch.tensor([[0.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    ids = [dist.token_ids.tolist() for dist in top_dists(rows, 2)]
    assert ids == [[1, 2], [0, 1], [0, 1]]


@pytest.mark.parametrize("k", [1, 7, 256, 2999, 3000])
def test_half_precision_whose_values_are_few_has_its_ties_broken_the_same_way(k: int) -> None:
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits[1] = -logits[1].abs().round()
    for row, dist in enumerate(top_dists(logits, k)):
        logprobs = logits[row].float().log_softmax(-1)
        assert dist.token_ids.tolist() == by_definition(logprobs, k)
        assert np.array_equal(dist.logprobs, logprobs.numpy()[dist.token_ids])


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_what_is_no_number_comes_first_and_is_never_dropped(k: int) -> None:
    logits = torch.zeros(4, 8)
    logits[0, 5], logits[1, 5], logits[2, :5] = torch.nan, torch.inf, -torch.inf
    logits[3] = -torch.inf
    *broken, cut, nothing = top_dists(logits, k)
    for dist in (*broken, nothing):
        assert dist.token_ids.tolist() == list(range(k))
        assert np.isnan(dist.logprobs).all()
    assert cut.token_ids.tolist() == [5, 6, 7, 0, 1, 2, 3, 4][:k]


@pytest.mark.parametrize("gap", [0.0, 8.0, 16.0, 40.0])
def test_the_tail_agrees_with_float64_also_where_the_top_has_nearly_all_mass(gap: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5000)
    logits[:, :10] += gap
    truth = logits.double().log_softmax(-1)
    for row, dist in enumerate(top_dists(logits, 10)):
        rest = np.setdiff1d(np.arange(5000), dist.token_ids)
        tail = float(truth[row, rest].logsumexp(-1))
        assert dist.tail_logprob == pytest.approx(tail, abs=1e-5)
        assert float(np.exp(dist.logprobs.astype(np.float64)).sum()) + np.exp(
            tail
        ) == pytest.approx(1.0, abs=1e-5)


def test_only_the_whole_vocabulary_has_no_tail() -> None:
    logits = torch.randn(1, 6)
    assert top_dists(logits, 5)[0].tail_logprob is not None
    assert top_dists(logits, 6)[0].tail_logprob is None
    assert top_dists(logits, 99)[0].tail_logprob is None
    assert len(top_dists(logits, 99)[0].token_ids) == 6
    assert dists_at(logits, [[5, 4, 3, 2, 1, 0]])[0].tail_logprob is None
    assert dists_at(logits, [[0, 1, 2, 3, 4, 4]])[0].tail_logprob is not None


def test_given_ids_keep_their_order_and_rows_may_differ_in_number() -> None:
    logits = torch.randn(2, 9)
    truth = logits.log_softmax(-1).numpy()
    for row, (dist, ids) in enumerate(
        zip(dists_at(logits, [[7, 2, 7], [4]]), ([7, 2, 7], [4]), strict=True)
    ):
        assert dist.token_ids.tolist() == ids
        np.testing.assert_allclose(dist.logprobs, truth[row, ids], atol=1e-6)
        rest = np.setdiff1d(np.arange(9), ids)
        assert dist.tail_logprob == pytest.approx(
            float(np.logaddexp.reduce(truth[row, rest].astype(np.float64))), abs=1e-5
        )


def test_token_logprobs_are_in_float32_whatever_the_logits_are() -> None:
    logits = torch.randn(4, 50, dtype=torch.float16)
    targets = torch.tensor([0, 3, 49, 7])
    found = token_logprobs(logits, targets)
    truth = logits.double().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, atol=1e-5, rtol=0)

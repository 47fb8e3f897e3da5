"""Claims: the kernel gives the definitions of a KL, a JS, an entropy and agreements of the top in
float64, for logits of any floating type; distributions with known figures have these; a token
without any probability makes a term 0 or infinite as its limit does; ties of the top go to the
lower id; equal logits are exactly 0 apart, and a tiny sum keeps its sign; memory bounds the block
and changes nothing.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from forwardcache.hf.batch import differences
from forwardcache.hf.batch.differences import FIELDS, position_differences, rows_at_once

MEGABYTES = 2**25


def normalised(logits: Any) -> NDArray[np.float64]:
    wide = np.asarray(logits, dtype=np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def relative(log_p: Any, log_q: Any) -> Any:
    """KL(P ‖ Q), with 0·log 0 = 0."""
    mass = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        return np.where(mass == 0.0, 0.0, mass * (log_p - log_q)).sum(-1)


def best(logits: Any, k: int = 5) -> list[set[int]]:
    rows = np.asarray(logits, dtype=np.float64)
    return [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in rows]


def oracle(reference: Any, view: Any, targets: Any) -> dict[str, Any]:
    """The definitions, written down plainly, from logits [n, vocab] in float64."""
    log_p, log_q = normalised(reference), normalised(view)
    with np.errstate(divide="ignore"):
        middle = np.log((np.exp(log_p) + np.exp(log_q)) / 2)
    rows = np.arange(len(log_p))
    k = min(5, log_p.shape[-1])
    pairs = zip(best(reference, k), best(view, k), strict=True)
    return {
        "kl": relative(log_p, log_q),
        "kl_reverse": relative(log_q, log_p),
        "js": (relative(log_p, middle) + relative(log_q, middle)) / 2,
        "logprob_reference": log_p[rows, targets],
        "logprob": log_q[rows, targets],
        "entropy_reference": -relative(log_p, np.zeros_like(log_p)),
        "same_top": np.argmax(reference, -1) == np.argmax(view, -1),
        "top_k_agreement": np.array([len(one & other) / k for one, other in pairs]),
    }


def found(reference: Any, view: Any, targets: Any, max_bytes: int = MEGABYTES) -> dict[str, Any]:
    table = position_differences(reference, view, torch.tensor(targets), max_bytes=max_bytes)
    assert table.dtype == torch.float64
    return dict(zip(FIELDS, table.numpy().T, strict=True))


def holds(reference: Any, view: Any, targets: Any, tolerance: float = 1e-12) -> dict[str, Any]:
    figures = found(reference, view, targets)
    wide = reference.double().numpy(), view.double().numpy()
    for field, expected in oracle(*wide, targets).items():
        np.testing.assert_allclose(figures[field], expected, atol=tolerance, rtol=1e-12)
    return figures


def logs(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("vocab", [3, 320, 641, 5000])
def test_figures_are_their_definitions(dtype: torch.dtype, vocab: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, vocab) * 3
    moved = logits + torch.randn(7, vocab) * 0.3
    holds(logits.to(dtype), moved.to(dtype), [0, 1, 2, 0, 1, 2, vocab - 1])


def test_distributions_with_known_figures_have_these() -> None:
    figures = holds(logs((0.5, 0.5, 0.0)[:2]), logs((0.25, 0.75)), [0])
    assert figures["kl"][0] == pytest.approx(0.5 * math.log(4 / 3))
    assert figures["kl_reverse"][0] == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))
    assert figures["entropy_reference"][0] == pytest.approx(math.log(2))
    assert figures["logprob"][0] == pytest.approx(math.log(0.25))


def test_a_token_that_only_the_view_forbids_is_infinitely_far() -> None:
    figures = holds(logs((0.5, 0.25, 0.25)), logs((0.5, 0.5, 0.0)), [0])
    assert figures["kl"][0] == math.inf
    assert figures["kl_reverse"][0] == pytest.approx(0.5 * math.log(2))
    assert math.isfinite(figures["js"][0])


def test_a_token_that_only_the_reference_forbids_leaves_the_kl_finite() -> None:
    figures = holds(logs((0.5, 0.5, 0.0)), logs((0.5, 0.25, 0.25)), [2])
    assert figures["kl"][0] == pytest.approx(0.5 * math.log(2))
    assert figures["kl_reverse"][0] == math.inf
    assert figures["logprob_reference"][0] == -math.inf


@pytest.mark.parametrize("nothing", [-math.inf, torch.finfo(torch.float32).min, -1e4])
def test_a_token_that_both_forbid_adds_nothing(nothing: float) -> None:
    torch.manual_seed(0)
    logits, moved = torch.randn(2, 4, 400)
    with_one = [torch.cat([each, torch.full((4, 1), nothing)], -1) for each in (logits, moved)]
    figures = holds(with_one[0], with_one[1], [0] * 4)
    plain = found(logits, moved, [0] * 4)
    for field in FIELDS:
        np.testing.assert_allclose(figures[field], plain[field], atol=1e-13)


def test_disjoint_distributions_are_the_logarithm_of_two_apart() -> None:
    figures = holds(logs((0.5, 0.5, 0.0, 0.0)), logs((0.0, 0.0, 0.5, 0.5)), [0])
    assert figures["kl"][0] == figures["kl_reverse"][0] == math.inf
    assert figures["js"][0] == pytest.approx(math.log(2))


def test_what_is_no_number_stays_none_and_spoils_no_other_row() -> None:
    torch.manual_seed(0)
    logits, moved = torch.randn(2, 3, 400)
    plain = found(logits, moved, [0] * 3)
    moved[1, 7] = math.nan
    figures = found(logits, moved, [0] * 3)
    assert math.isnan(figures["kl"][1])
    assert figures["kl"][[0, 2]].tolist() == plain["kl"][[0, 2]].tolist()


@pytest.mark.parametrize("vocab", [320, 4000])
def test_ties_of_the_top_go_to_the_lower_id(vocab: int) -> None:
    few = torch.zeros(1, vocab)
    few[0, vocab - 1] = few[0, vocab // 2] = 1.0
    assert differences._best_ids(few)[0].tolist() == [vocab // 2, vocab - 1, 0, 1, 2]
    other = few.clone()
    other[0, vocab // 2] = 0.5
    figures = holds(few, other, [0])
    assert figures["same_top"][0] == 0.0
    assert figures["top_k_agreement"][0] == 1.0
    torch.manual_seed(0)
    coarse = torch.randint(0, 4, (50, vocab)).float()
    expected = np.argsort(-coarse.numpy(), axis=-1, kind="stable")[:, :5]
    assert differences._best_ids(coarse).tolist() == expected.tolist()


def test_equal_logits_are_exactly_zero_apart() -> None:
    torch.manual_seed(0)
    logits = torch.randn(9, 700) * 5
    figures = found(logits, logits.clone(), [0] * 9)
    for field in ("kl", "kl_reverse", "js"):
        assert figures[field].tolist() == [0.0] * 9
    assert figures["same_top"].all()
    assert (figures["top_k_agreement"] == 1.0).all()


def test_a_tiny_divergence_is_right_and_its_sign_is_kept() -> None:
    torch.manual_seed(0)
    logits = torch.randn(200, 700)
    moved = logits.double() + 1e-7 * torch.randn(200, 700, dtype=torch.float64)
    figures = found(logits.double(), moved, [0] * 200)
    d = normalised(logits) - normalised(moved)
    truth = 0.5 * (np.exp(normalised(logits)) * d**2).sum(-1)
    np.testing.assert_allclose(figures["kl"], truth, atol=2e-15)
    np.testing.assert_allclose(figures["js"], truth / 4, atol=1e-15)
    # Of two that differ in their last bits alone the sum is rounding, above and below 0.
    moved = logits.double() + 1e-15 * torch.randn(200, 700, dtype=torch.float64)
    kl = found(logits.double(), moved, [0] * 200)["kl"]
    assert kl.min() < 0 < kl.max()
    assert abs(kl).max() < 1e-14


@pytest.mark.parametrize("max_bytes", [1, 10_000, 2**20])
def test_the_block_changes_no_value(max_bytes: int) -> None:
    torch.manual_seed(0)
    logits, moved = torch.randn(2, 50, 700)
    whole = found(logits, moved, [3] * 50)
    for field, values in found(logits, moved, [3] * 50, max_bytes).items():
        np.testing.assert_allclose(values, whole[field], atol=1e-13)


def test_rows_and_temporaries_are_within_the_bound() -> None:
    for vocab in (320, 49_152, 262_144):
        for bound in (2**24, 2**25, 2**29):
            for device in ("cpu", "cuda"):
                block = differences._block_rows(vocab, bound, device)
                temporaries = block * vocab * 32
                rows = rows_at_once(vocab, bound, device)
                assert rows * vocab * 4 + temporaries <= bound or rows == 2
                assert rows * vocab * 4 > bound / 3

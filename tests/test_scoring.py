"""Claims: values can't be changed and equal what they hold; the KL is the contract's.

Not here: that backends fill the values rightly (``tests/hf``).
"""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardcache import scoring
from forwardcache.errors import InvalidInputError
from forwardcache.scoring import (
    DifferentialBackend,
    NullCalibratedBackend,
    PositionDifferences,
    RollingLogprob,
    ScalableDifferentialBackend,
    ScoringBackend,
    TokenDist,
    kl_divergence,
)


def dist(**changes: Any) -> TokenDist:
    fields: dict[str, Any] = {
        "token_ids": [3, 1],
        "logprobs": [-0.5, -1.5],
        "vocab_size": 10,
        "tail_logprob": -1.7,
    }
    return TokenDist(**(fields | changes))


def rolling(**changes: Any) -> RollingLogprob:
    fields: dict[str, Any] = {
        "token_ids": [0, 5, 7],
        "logprobs": [-1.0, -3.0],
        "num_tokens": 3,
        "total_logprob": -4.0,
    }
    return RollingLogprob(**(fields | changes))


def differences(**changes: Any) -> PositionDifferences:
    fields: dict[str, Any] = {
        "token_ids": [0, 5, 7],
        "kl": [0.25, 1e-9],
        "kl_reverse": [0.5, -1e-17],
        "js": [0.1, 0.0],
        "logprob_reference": [-1.0, -3.0],
        "logprob": [-1.5, -3.0],
        "entropy_reference": [2.0, 0.5],
        "same_top": [True, False],
        "top_k_agreement": [0.8, 1.0],
        "counts": [False, True],
    }
    return PositionDifferences(**(fields | changes))


def cut(logprobs: Any, k: int) -> TokenDist:
    """The k most likely of a full distribution."""
    order = np.argsort(-logprobs, kind="stable")
    tail = np.logaddexp.reduce(logprobs[order[k:]]) if k < len(logprobs) else None
    return TokenDist(order[:k], logprobs[order[:k]], len(logprobs), tail)


def full_kl(left: Any, right: Any) -> float:
    return float(np.sum(np.exp(left) * (left - right)))


@pytest.mark.parametrize("value", [dist(), rolling()])
@pytest.mark.parametrize("field", ["token_ids", "logprobs"])
def test_arrays_can_not_be_written_not_even_by_force(value: Any, field: str) -> None:
    array = getattr(value, field)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_a_value_keeps_no_hold_on_the_array_it_was_made_from() -> None:
    source = np.array([-0.5, -1.5], dtype=np.float32)
    value = dist(logprobs=source)
    source[0] = 9.0
    assert value.logprobs[0] == np.float32(-0.5)


@pytest.mark.parametrize("value", [dist(), rolling()])
def test_dtypes_are_the_contracts_and_fields_are_frozen(value: Any) -> None:
    assert value.token_ids.dtype == np.int64
    assert value.logprobs.dtype == np.float32
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.token_ids = None


@pytest.mark.parametrize("make", [dist, rolling])
def test_equality_and_hash_go_by_content(make: Any) -> None:
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(logprobs=[-0.5, -1.25])
    assert make() != "something else"
    assert "logprobs" in repr(make())


def test_two_distributions_that_differ_only_in_their_tail_are_not_equal() -> None:
    assert dist() != dist(tail_logprob=None)
    assert dist() != dist(vocab_size=11)


def test_nbytes_counts_both_arrays() -> None:
    assert dist().nbytes == scoring._OBJECT_BYTES + 2 * 8 + 2 * 4
    assert rolling().nbytes == scoring._OBJECT_BYTES + 3 * 8 + 2 * 4


def test_ids_and_logprobs_of_other_lengths_are_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidInputError, match=r"2 token ids but 3"):
        dist(logprobs=[0.0, 0.0, 0.0])
    with pytest.raises(InvalidInputError, match=r"3 tokens need 2 .* got 3"):
        rolling(logprobs=[0.0, 0.0, 0.0])
    with pytest.raises(InvalidInputError, match="one dimension"):
        dist(token_ids=[[1], [2]])


def test_mean_and_perplexity_are_over_the_scored_tokens() -> None:
    assert rolling().mean_logprob == -2.0
    assert rolling().perplexity == pytest.approx(math.exp(2.0))


@pytest.mark.parametrize("ids", [[], [0]])
def test_fewer_than_two_tokens_score_nothing(ids: list[int]) -> None:
    value = RollingLogprob(ids, [], len(ids), 0.0)  # type: ignore[arg-type]
    assert (value.mean_logprob, value.perplexity, value.is_finite) == (0.0, 1.0, True)


def test_a_nan_or_an_infinity_makes_a_value_not_finite() -> None:
    assert dist().is_finite
    assert dist(tail_logprob=-math.inf).is_finite
    assert dist(tail_logprob=None).is_finite
    assert not dist(tail_logprob=math.nan).is_finite
    assert not dist(logprobs=[math.nan, -1.0]).is_finite
    assert not rolling(logprobs=[math.inf, -1.0]).is_finite


PER_POSITION = {
    **dict.fromkeys(("kl", "kl_reverse", "js"), np.float64),
    **dict.fromkeys(("logprob_reference", "logprob", "entropy_reference"), np.float32),
    **{"same_top": np.bool_, "top_k_agreement": np.float32, "counts": np.bool_},
}


def test_differences_have_the_contracts_arrays_that_nobody_can_write_to() -> None:
    value = differences()
    found = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    types: dict[str, Any] = {"token_ids": np.int64, **PER_POSITION}
    assert {name: array.dtype for name, array in found.items()} == types
    assert value.kl_reverse[1] == -1e-17
    for array in found.values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.kl = None  # type: ignore[misc, assignment]


@pytest.mark.parametrize("field", PER_POSITION)
def test_differences_need_an_entry_of_each_field_for_each_token_but_the_first(field: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"3 tokens need 2 entries of {field}, got 1"):
        differences(**{field: [0.0]})
    with pytest.raises(InvalidInputError, match="one dimension"):
        differences(**{field: [[0.0], [0.0]]})


@pytest.mark.parametrize("ids", [[], [4]])
def test_a_text_of_fewer_than_two_tokens_has_no_differences(ids: list[int]) -> None:
    value = differences(token_ids=ids, **{field: [] for field in PER_POSITION})
    assert (len(value.kl), value.is_finite) == (0, True)


def test_differences_are_equal_where_every_array_is() -> None:
    assert differences() == differences()
    assert hash(differences()) == hash(differences())
    assert differences() != "something else"
    changed = [differences(token_ids=[0, 5, 8])]
    changed += [differences(**{field: [0.125, 0.125]}) for field in PER_POSITION]
    assert differences() not in changed
    assert len({differences(), *changed}) == len(changed) + 1
    assert differences(kl=[math.nan, 0.0]) == differences(kl=[math.nan, 0.0])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_number_that_is_not_finite_makes_differences_not_finite(wrong: float) -> None:
    assert differences().is_finite
    numbers = [field for field, dtype in PER_POSITION.items() if dtype is not np.bool_]
    assert not any(differences(**{field: [0.0, wrong]}).is_finite for field in numbers)


def test_protocols_are_checked_at_run_time_by_their_methods() -> None:
    protocols = (
        ScoringBackend,
        DifferentialBackend,
        ScalableDifferentialBackend,
        NullCalibratedBackend,
    )
    for protocol in protocols:
        names = [name for name in vars(protocol) if not name.startswith("_")]
        whole = type("Whole", (), dict.fromkeys(names, lambda *_, **__: None))
        assert isinstance(whole(), protocol)
        for missing in names:
            methods = {name: getattr(whole, name) for name in names if name != missing}
            assert not isinstance(type("Partial", (), methods)(), protocol)


def test_the_module_imports_without_torch() -> None:
    code = "import sys, forwardcache.scoring; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


logits = st.lists(st.floats(-15, 15, width=32), min_size=8, max_size=8)


@given(logits, logits, st.integers(1, 7))
def test_the_kl_is_a_lower_bound_and_exact_where_k_covers(
    left: list[float], right: list[float], k: int
) -> None:
    ours, theirs = (np.array(each) - np.logaddexp.reduce(each) for each in (left, right))
    truth = full_kl(ours, theirs)
    base = cut(ours, k)
    bound = kl_divergence(base, theirs[base.token_ids].astype(np.float32))
    assert -1e-6 <= bound <= truth + 1e-4 * (1.0 + truth)
    whole = cut(ours, 8)
    assert kl_divergence(whole, theirs[whole.token_ids]) == pytest.approx(truth, rel=1e-4, abs=1e-5)


def test_the_tail_bucket_counts() -> None:
    base = TokenDist([0], [math.log(0.5)], 3, math.log(0.5))  # type: ignore[arg-type]
    truth = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_divergence(base, [math.log(0.9)]) == pytest.approx(truth, rel=1e-6)
    given_tail = kl_divergence(base, [math.log(0.9)], other_tail_logprob=math.log(0.1))
    assert given_tail == pytest.approx(truth, rel=1e-6)


def test_a_distribution_has_no_divergence_from_itself() -> None:
    logprobs = np.log(np.full(8, 1 / 8))
    base = cut(logprobs, 3)
    assert kl_divergence(base, base.logprobs) == pytest.approx(0.0, abs=1e-6)


@given(logits, st.floats(-1e-6, 1e-6))
def test_a_factor_common_to_all_tokens_is_no_divergence(raw: list[float], shift: float) -> None:
    logprobs = np.array(raw) - np.logaddexp.reduce(raw)
    for base, tail in ((cut(logprobs, 8), None), (cut(logprobs, 3), cut(logprobs, 3).tail_logprob)):
        moved = base.logprobs.astype(np.float64) + shift
        other = None if tail is None else tail + shift
        assert abs(kl_divergence(base, moved, other_tail_logprob=other)) < 1e-12


def test_a_small_negative_sum_is_not_cut_off() -> None:
    chance = np.random.default_rng(0)
    found = []
    for _ in range(200):
        logprobs = np.log(chance.dirichlet(np.ones(8)))
        base = cut(logprobs, 8)
        found.append(kl_divergence(base, base.logprobs.astype(np.float64) + 1e-9))
    assert min(found) < 0.0 < max(found)


def test_no_mass_where_base_has_some_is_infinite() -> None:
    assert kl_divergence(dist(), [-math.inf, -0.1]) == math.inf
    silent = dist(logprobs=[-math.inf, -0.2])
    assert math.isfinite(kl_divergence(silent, [-math.inf, -0.2]))


def test_other_logprobs_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="each of the 2 ids"):
        kl_divergence(dist(), [-1.0])


def test_a_distribution_with_a_nan_tail_equals_itself() -> None:
    dist = TokenDist(np.array([1]), np.array([-0.5], np.float32), 8, math.nan)
    again = TokenDist(np.array([1]), np.array([-0.5], np.float32), 8, math.nan)
    assert dist == again
    assert hash(dist) == hash(again)
    assert dist != TokenDist(np.array([1]), np.array([-0.5], np.float32), 8, None)

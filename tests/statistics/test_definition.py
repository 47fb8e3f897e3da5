"""Claims: the difference at a position is what the papers define, on distributions done by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from forwardcache.errors import InvalidInputError
from forwardcache.statistics import differences_by_definition

HALVES, SKEWED = np.log([0.5, 0.5]), np.log([0.75, 0.25])


def test_two_coins_by_hand() -> None:
    found = differences_by_definition([0, 1], [HALVES], [SKEWED])
    assert found.kl[0] == pytest.approx(0.5 * math.log(4 / 3), rel=1e-14)
    assert found.kl_reverse[0] == pytest.approx(0.75 * math.log(3) - math.log(2), rel=1e-14)
    middle = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    other = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    assert found.js[0] == pytest.approx(0.5 * middle + 0.5 * other, rel=1e-14)
    assert found.entropy_reference[0] == pytest.approx(math.log(2), rel=1e-6)
    assert found.logprob_reference[0] == np.float32(math.log(0.5))
    assert found.logprob[0] == np.float32(math.log(0.25))
    assert found.counts.tolist() == [True]


def test_disjoint_distributions_are_infinitely_far_and_their_js_is_the_log_of_2() -> None:
    left, right = [0.0, -math.inf], [-math.inf, 0.0]
    found = differences_by_definition([0, 0], [left], [right])
    assert (found.kl[0], found.kl_reverse[0]) == (math.inf, math.inf)
    assert found.js[0] == pytest.approx(math.log(2), rel=1e-15)
    assert (found.entropy_reference[0], bool(found.same_top[0])) == (0.0, False)


def test_ties_go_to_the_lower_id() -> None:
    left, right = [1.0, 1.0, 0.0, 0.0], [1.0, 1.0 - 1e-12, 0.0, 0.5]
    found = differences_by_definition([0, 0], [left], [right], k=3)
    assert found.same_top.tolist() == [True]
    # Of P the ids 0, 1, 2; of Q 0, 1, 3.
    assert found.top_k_agreement[0] == np.float32(2 / 3)
    assert differences_by_definition([0, 0], [left], [right], k=9).top_k_agreement[0] == 1.0


rows = st.lists(st.floats(-20, 20), min_size=6, max_size=6)


@given(rows, rows, st.floats(-100, 100))
def test_it_is_what_scipy_gives_and_a_constant_a_row_changes_nothing(
    left: list[float], right: list[float], shift: float
) -> None:
    p, q = special.softmax(left), special.softmax(right)
    found = differences_by_definition([0, 2], [left], [np.array(right) + shift])
    assert found.kl[0] == pytest.approx(special.rel_entr(p, q).sum(), rel=1e-9, abs=1e-12)
    assert found.kl_reverse[0] == pytest.approx(special.rel_entr(q, p).sum(), rel=1e-9, abs=1e-12)
    js = (special.rel_entr(p, (p + q) / 2) + special.rel_entr(q, (p + q) / 2)).sum() / 2
    assert found.js[0] == pytest.approx(js, rel=1e-9, abs=1e-12)
    assert -1e-12 <= found.js[0] <= math.log(2) + 1e-12
    assert found.entropy_reference[0] == pytest.approx(special.entr(p).sum(), rel=1e-5, abs=1e-6)


def test_a_small_negative_sum_is_not_cut_off() -> None:
    chance = np.random.default_rng(0)
    logits = chance.normal(0.0, 4.0, (500, 50))
    shifted = logits + chance.normal(0.0, 10.0, (500, 1))
    found = differences_by_definition(np.zeros(501), logits, shifted)
    assert found.kl.min() < 0.0
    assert np.abs(found.kl).max() < 1e-13


def test_a_text_of_one_token_has_no_position() -> None:
    found = differences_by_definition([3], np.empty((0, 4)), np.empty((0, 4)))
    assert len(found.kl) == 0


def test_shapes_that_do_not_fit_are_refused_with_their_numbers() -> None:
    with pytest.raises(InvalidInputError, match=r"2 tokens need two arrays of 1 rows.*\(2, 2\)"):
        differences_by_definition([0, 1], [HALVES] * 2, [SKEWED] * 2)
    with pytest.raises(InvalidInputError, match="k = 0"):
        differences_by_definition([0, 1], [HALVES], [SKEWED], k=0)

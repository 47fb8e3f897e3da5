"""Claims: p counts nulls that are as far, is uniform for true nulls, and after Holm keeps the
chance of any false one; with too few nulls only the place is told.
"""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.coverage import family_error, null_ranks, uniformity
from forwardcache.errors import InvalidInputError
from forwardcache.statistics import (
    Floor,
    Positions,
    adjusted,
    against_nulls,
    among_nulls,
    holm,
    summaries,
    view_as_json,
)
from tests.statistics.made import drawn, item, same_texts, with_kl


def test_the_place_among_nulls_by_hand() -> None:
    found = among_nulls(2.0, [1.0, 2.0, 3.0, 0.5])
    # 2.0 and 3.0 are at least as far.
    assert (found.n, found.rank, found.p) == (4, 3, 3 / 5)
    assert (found.mean, found.max, found.value) == (1.625, 3.0, 2.0)
    assert found.sd == pytest.approx(math.sqrt((0.625**2 + 0.375**2 + 1.375**2 + 1.125**2) / 3))
    assert found.ratio_to_mean == pytest.approx(2.0 / 1.625)
    assert (found.compared, found.p_adjusted, found.p_smallest) == (1, 3 / 5, 1 / 5)


def test_an_infinite_null_is_farther_and_has_no_multiple() -> None:
    with np.errstate(all="raise"):
        found = among_nulls(2.0, [1.0, math.inf, 3.0])
        endless = among_nulls(math.inf, [1.0, math.inf])
    assert (found.rank, found.p, found.mean) == (3, 3 / 4, math.inf)
    assert (found.as_json()["sd"], found.as_json()["ratio_to_mean"]) == (None, None)
    assert (endless.rank, endless.as_json()["ratio_to_mean"]) == (2, None)


def test_the_farthest_of_too_few_is_first_and_never_significant() -> None:
    found = among_nulls(9.0, [1.0] * 10)
    assert (found.words, found.is_significant, found.p) == ("first of 11", False, 1 / 11)
    for values, words in (([9.5] * 1, "second"), ([9.5] * 2, "third"), ([9.5] * 3, "4th")):
        assert among_nulls(9.0, values + [1.0] * 7).words.startswith(f"{words} of ")
    assert among_nulls(0.0, [1.0] * 10).words == "11th of 11"
    assert "22nd of 31" in among_nulls(0.0, [1.0] * 21 + [-1.0] * 9).words


@pytest.mark.parametrize(("compared", "fewest"), [(1, 19), (2, 39), (6, 119)])
def test_below_one_in_20_takes_so_many_nulls(compared: int, fewest: int) -> None:
    for nulls, is_enough in ((fewest - 1, False), (fewest, True)):
        found = adjusted({view: among_nulls(9.0, np.ones(nulls)) for view in range(compared)})
        assert [one.is_significant for one in found.values()] == [is_enough] * compared
        assert found[0].p_smallest == pytest.approx(compared / (nulls + 1))
        assert found[0].compared == compared
        assert ("significant at 0.05" in found[0].words) == is_enough


def test_the_words_tell_p_and_over_how_many() -> None:
    assert among_nulls(9.0, np.ones(20)).words == (
        "first of 21, significant at 0.05: p = 0.048 after Holm over 1 comparison"
    )
    found = adjusted({view: among_nulls(1.0 - view, np.linspace(0, 2, 99)) for view in range(3)})
    assert "not significant at 0.05" in found[0].words
    assert found[0].words.endswith("after Holm over 3 comparisons")


def test_holm_by_hand_and_as_published_tables_have_it() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert (holm([]), holm([0.3])) == ([], [0.3])
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInputError, match="p-values are from 0 to 1"):
            holm([0.5, wrong])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(
    values: list[float], chance: Any
) -> None:
    found = holm(values)
    for p, p_adjusted in zip(values, found, strict=True):
        assert p <= p_adjusted <= min(1.0, p * len(values)) + 1e-12
    assert [p for _, p in sorted(zip(values, found, strict=True))] == sorted(found)
    shuffled = list(range(len(values)))
    chance.shuffle(shuffled)
    assert holm([values[number] for number in shuffled]) == pytest.approx(
        [found[number] for number in shuffled]
    )


@pytest.mark.parametrize("nulls", [10, 20])
def test_p_values_of_true_nulls_are_uniform(nulls: int) -> None:
    ranks = null_ranks(5000, nulls, seed=0)
    assert uniformity(ranks, nulls) > 0.001
    # The test has the power to see one null too many among those that count.
    assert uniformity(np.maximum(ranks - 1, 1), nulls) < 1e-6


@pytest.mark.parametrize(("views", "nulls"), [(1, 19), (4, 99)])
def test_any_of_several_true_nulls_is_seldom_significant(views: int, nulls: int) -> None:
    assert family_error(800, views, nulls, seed=1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 800)


def test_views_are_held_to_nulls_over_the_texts_that_all_have() -> None:
    view = with_kl([[float(number)] * 2 for number in range(40)])
    nulls = [with_kl([[value] * 2] * 30) for value in (1.0, 14.5, 20.0)]
    found = against_nulls(view, nulls)
    assert (found.value, found.n, found.rank) == (14.5, 3, 3)
    assert found.mean == pytest.approx(35.5 / 3)


def test_copies_in_the_view_weigh_as_in_the_nulls() -> None:
    texts = [item([number, 1], kl=[number]) for number in range(5)]
    found = against_nulls(Positions.of(texts + texts[4:] * 20), [Positions.of(texts)])
    assert (found.value, found.ratio_to_mean) == (2.0, 1.0)


@pytest.mark.parametrize("texts", [3, 20, 37, 64])
def test_a_null_that_is_just_as_far_comes_before_however_many_there_are(texts: int) -> None:
    chance = np.random.default_rng(texts)
    for nulls in range(1, 24):
        view = drawn(chance, texts=texts, length=4)
        assert against_nulls(view, [view] * nulls).rank == nulls + 1


def test_there_is_no_ratio_while_the_nulls_lie_inside_the_floor() -> None:
    chance = np.random.default_rng(0)
    base = drawn(chance, texts=40)
    floor = Floor.of([drawn(chance, texts=40)])
    far, near = same_texts(base, base.kl * 5), drawn(chance, texts=40)
    assert against_nulls(base, [far] * 3, floor=floor).ratio_to_mean == pytest.approx(0.2)
    inside = against_nulls(far, [near] * 3, floor=floor)
    assert inside.ratio_to_mean is None
    assert inside.as_json()["ratio_to_mean"] is None
    assert among_nulls(0.0, [0.0] * 3).ratio_to_mean is None
    few = Floor.of([with_kl([[1.0]] * 3)])
    for value, ratio in ((0.5, None), (2.0, 2.0)):
        found = against_nulls(with_kl([[4.0]] * 3), [with_kl([[value]] * 3)], floor=few)
        assert found.ratio_to_mean == ratio


def test_figures_with_a_sign_are_compared_by_their_size() -> None:
    signed = Positions.of([item([1, 2, 3], logprob=[-1.5, -0.5])])
    null = Positions.of([item([1, 2, 3], logprob=[-1.25, -0.75])])
    found = against_nulls(signed, [null], figure="abs_delta_logprob")
    assert (found.value, found.mean, found.ratio_to_mean) == (0.5, 0.25, 2.0)
    floor = Floor.of([Positions.of([item([1, 2, 3], kl=[0.1, 0.1], logprob=[-1.5, -0.5])])])
    inside = against_nulls(signed, [null], figure="abs_delta_logprob", floor=floor)
    assert inside.ratio_to_mean is None


def test_what_can_not_be_compared_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"one or more, got shape \(0,\)"):
        among_nulls(1.0, [])
    for value, nulls in ((math.nan, [1.0]), (1.0, [math.nan])):
        with pytest.raises(InvalidInputError, match="a figure is no number"):
            among_nulls(value, nulls)
    view = with_kl([[1.0]])
    for wrong in ([], [Positions.of([item([8, 9])])]):
        with pytest.raises(InvalidInputError, match="texts are in the view and in all of"):
            against_nulls(view, wrong)


def test_the_comparison_has_the_names_of_the_command_line() -> None:
    view = with_kl([[1.0]])
    group = {"poem": among_nulls(1.0, [0.5])}
    summary = summaries({"ft": view}, groups=["poem"])["ft"]
    found = view_as_json(summary, nulls=among_nulls(1.0, [0.5, 0.25]), group_nulls=group)
    json.dumps(found, allow_nan=False)
    assert {"n", "mean", "sd", "max", "rank", "p", "p_adjusted", "p_smallest", "compared",
            "ratio_to_mean"} <= set(found["nulls"])  # fmt: skip
    assert found["groups"]["poem"]["nulls"]["rank"] == 1

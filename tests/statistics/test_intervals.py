"""Claims: intervals are bootstrap-t over distinct texts, held against scipy's resamples; none of
few texts; right where nothing differs. How often they hold the truth is in ``test_coverage.py``.
"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from forwardcache.errors import InvalidInputError
from forwardcache.statistics import (
    FEWEST_TEXTS,
    Interval,
    Totals,
    interval_of_mean,
    intervals,
    share_intervals,
)
from forwardcache.statistics.intervals import of_divergence, open_intervals, within_share
from forwardcache.statistics.resampling import studentised_ends
from forwardcache.statistics.totals import MOST_CLUSTERS


def lognormal(texts: int, seed: int = 0, sigma: float = 0.7) -> Totals:
    chance = np.random.default_rng(seed)
    counts = chance.integers(1, 40, texts).astype(np.float64)
    return Totals(chance.lognormal(0.0, sigma, texts) * counts, counts)


def test_the_linearised_error_by_hand() -> None:
    # Mean 18/6 = 3; errors 0, 3, -3; √(3/2 · 18) / 6.
    found = Totals(np.array([3.0, 9.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert found.mean == 3.0
    assert found.standard_error == pytest.approx(math.sqrt(27) / 6, rel=1e-15)


def test_with_one_position_a_text_the_error_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).lognormal(size=50)
    assert Totals(values, np.ones(50)).standard_error == pytest.approx(stats.sem(values), rel=1e-12)


@pytest.mark.parametrize("texts", [6, 25, 200])
def test_the_pivots_are_those_of_scipys_resamples(texts: int) -> None:
    figure = lognormal(texts)

    def pivot(sums: Any, counts: Any, axis: int) -> Any:
        rows = counts.sum(axis=axis)
        mean = sums.sum(axis=axis) / rows
        errors = sums - mean[..., None] * counts
        spread = np.sqrt((errors**2).sum(axis=axis) * texts / (texts - 1)) / rows
        return (mean - figure.mean) / np.where(spread > 0.0, spread, 1.0)

    found = stats.bootstrap(
        (figure.sums, figure.counts), pivot, paired=True, vectorized=True, batch=2000,
        method="percentile", n_resamples=40_000, random_state=np.random.default_rng(1),
    )  # fmt: skip
    low, high = studentised_ends([figure])
    # Of 10,000 resamples an end is off by a few hundredths.
    assert low[0] == pytest.approx(found.confidence_interval.low, rel=0.06)
    assert high[0] == pytest.approx(found.confidence_interval.high, rel=0.06)


def test_the_ends_are_the_mean_minus_pivots_times_the_error() -> None:
    figure = lognormal(60)
    (low,), (high,) = studentised_ends([figure])
    (found,) = intervals([figure])
    assert found.low == figure.mean - high * figure.standard_error
    assert found.high == figure.mean - low * figure.standard_error
    assert found.low < figure.mean < found.high


def test_an_interval_does_not_depend_on_what_is_asked_with_it() -> None:
    figures = [lognormal(60, seed) for seed in range(5)] + [lognormal(31, 9)]
    together = intervals(figures)
    for figure, found in zip(figures, together, strict=True):
        (alone,) = intervals([figure])
        assert (alone.low, alone.high) == pytest.approx((found.low, found.high), rel=1e-12)
    assert intervals(figures, seed=1) != together
    assert intervals([]) == []


def test_more_figures_than_one_product_holds_are_all_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = [lognormal(30, seed) for seed in range(7)]
    whole = intervals(figures)
    monkeypatch.setattr("forwardcache.statistics.resampling._MOST_FIGURES", 3)
    parts = intervals(figures)
    assert [one.low for one in parts] == pytest.approx([one.low for one in whole], rel=1e-12)


def test_few_texts_have_no_interval_and_some_a_rough_one() -> None:
    found = {texts: intervals([lognormal(texts)])[0] for texts in (1, 19, 20, 99, 100)}
    assert [one.is_known for one in found.values()] == [False, False, True, True, True]
    assert [one.is_rough for one in found.values()] == [False, False, True, True, False]
    assert found[19].as_json() is None
    assert str(found[19]) == "no interval: that takes 20 distinct texts, and there are 19"
    assert str(found[1]) == "no interval: that takes 20 distinct texts, and there is 1"
    assert str(Interval(0.25, 0.5, 40)) == "rough interval 0.25 to 0.5 over 40 texts"


def test_copies_of_texts_count_as_one() -> None:
    values = np.random.default_rng(0).lognormal(size=40)
    once = interval_of_mean(values)
    names = [f"{number}" for number in range(40)]
    five_times = interval_of_mean(np.tile(values, 5), names * 5)
    assert five_times.texts == 40
    assert (five_times.low, five_times.high) == pytest.approx((once.low, once.high), rel=1e-12)
    taken_for_new = interval_of_mean(np.tile(values, 5))
    assert taken_for_new.high - taken_for_new.low < 0.6 * (once.high - once.low)
    assert not interval_of_mean(np.tile(values[:10], 9), names[:10] * 9).is_known


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-9, -3.0])
def test_where_all_texts_have_one_mean_both_ends_are_it(value: float) -> None:
    counts = np.arange(1.0, 31.0)
    (found,) = intervals([Totals(value * counts, counts)])
    assert found.low == found.high == pytest.approx(value, rel=1e-12)
    assert (found.is_known, found.texts) == (True, 30)


def test_a_difference_in_a_few_texts_has_the_farthest_of_them_for_an_open_end() -> None:
    counts = np.where(np.arange(60) < 50, 4.0, 0.0)
    sums = np.zeros(60)
    sums[:2] = 4.0, 2.0
    (found,) = open_intervals([Totals(sums, counts)])
    assert (math.isfinite(found.low), found.high) == (True, math.inf)
    (ended,) = intervals([Totals(sums, counts)])
    assert ended == Interval(found.low, 1.0, 50)
    (mirrored,) = intervals([Totals(-sums, counts)])
    assert (mirrored.low, mirrored.high) == (-1.0, -found.low)


def test_the_mean_of_what_is_never_below_0_has_no_end_below_0() -> None:
    # As tiny divergences in half precision: of 20 texts one differs.
    sums, counts = np.zeros(20), np.arange(21.0, 41.0)
    sums[0] = 1.76e-4
    figure = Totals(sums, counts)
    (found,) = intervals([figure])
    assert found.low < 0.0 < figure.mean < found.high == sums[0] / counts[0]
    assert of_divergence(found, figure) == Interval(0.0, found.high, 20)
    # What is below 0 is rounding, and isn't cut off.
    rounded = Totals(np.where(np.arange(20) == 5, -1e-16, sums), counts)
    assert of_divergence(found, rounded) is found
    unknown = intervals([lognormal(5)])[0]
    assert of_divergence(unknown, lognormal(5)) is unknown


@pytest.mark.parametrize(("texts", "share"), [(20, 0.05), (20, 0.2), (50, 0.05)])
def test_where_hardly_a_text_differs_the_mean_is_still_held(texts: int, share: float) -> None:
    chance, truth = np.random.default_rng(1), share * math.exp(0.7**2 / 2)
    shape = texts, 300
    differs = chance.random(shape) < share
    means = np.where(differs, chance.lognormal(0.0, 0.7, shape), 0.0).T
    counts = chance.integers(10, 60, shape).astype(np.float64).T
    figures = [Totals(m * c, c) for m, c in zip(means, counts, strict=True) if m.any()]
    found = intervals(figures)
    assert all(math.isfinite(one.high) for one in found)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_sum_that_is_not_finite_has_no_interval(wrong: float) -> None:
    sums = np.ones(30)
    sums[3] = wrong
    (found,) = intervals([Totals(sums, np.ones(30))])
    assert (found.is_known, found.as_json()) == (False, None)
    assert "isn't finite" in str(found)


def test_very_many_texts_have_the_interval_of_the_normal_law() -> None:
    figure = lognormal(20 * MOST_CLUSTERS)
    (found,) = intervals([figure])
    width = 2 * 1.96 * figure.standard_error
    assert found.texts == 20 * MOST_CLUSTERS
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_a_bucket_that_most_texts_lack_counts_those_that_have_it() -> None:
    figure = lognormal(60)
    counts = np.where(np.arange(60) < 30, figure.counts, 0.0)
    (found,) = intervals([Totals(np.where(counts > 0, figure.sums, 0.0), counts)])
    (alone,) = intervals([Totals(figure.sums[:30], figure.counts[:30])])
    assert found.texts == 30
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.25)


# Shares


def test_where_no_text_differs_the_share_is_bounded_by_the_number_of_texts() -> None:
    counts = np.full(40, 25.0)
    all_agree, none_agree = share_intervals([Totals(counts, counts), Totals(0.0 * counts, counts)])
    # Clopper and Pearson for 0 of n: 1 minus the n-th root of 0.025.
    exact = stats.binomtest(0, 40).proportion_ci(method="exact")
    assert (none_agree.low, all_agree.high) == (0.0, 1.0)
    assert none_agree.high == pytest.approx(exact.high, rel=1e-9)
    assert all_agree.low == pytest.approx(1 - exact.high, rel=1e-9)
    assert none_agree.high == pytest.approx(1 - 0.025 ** (1 / 40), rel=1e-9)


def test_where_two_texts_differ_the_open_end_is_that_of_the_share_of_texts() -> None:
    counts = np.full(60, 25.0)
    sums = counts.copy()
    sums[:2] = 24.0
    (found,) = share_intervals([Totals(sums, counts)])
    exact = stats.binomtest(58, 60).proportion_ci(method="exact")
    assert found.low == pytest.approx(exact.low, rel=1e-9)
    assert sums.sum() / counts.sum() < found.high <= 1.0


def test_a_share_that_all_texts_have_alike_keeps_its_interval() -> None:
    found = within_share(Interval(0.5, 0.5, 30), share=0.5, all_have=0, none_have=0)
    assert found == Interval(0.5, 0.5, 30)
    unknown = intervals([lognormal(5)])[0]
    assert within_share(unknown, share=1.0, all_have=5, none_have=0) is unknown


texts = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=FEWEST_TEXTS, max_size=60
)


@settings(max_examples=40, deadline=None)
@given(texts, st.floats(1e-3, 1e3))
def test_an_interval_holds_its_mean_has_no_nan_and_goes_with_the_unit(
    drawn: list[tuple[float, int]], unit: float
) -> None:
    means, counts = (np.array(each, dtype=np.float64) for each in zip(*drawn, strict=True))
    figure = Totals(means * counts, counts)
    found, scaled = intervals([figure, Totals(unit * figure.sums, counts)])
    slack = 1e-9 * (1.0 + abs(figure.mean))
    assert found.low - slack <= figure.mean <= found.high + slack
    ends = [unit * found.low, unit * found.high]
    assert [scaled.low, scaled.high] == pytest.approx(ends, rel=1e-6, abs=1e-6 * unit)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=20, max_size=60))
@example([(0, 1)] * 19 + [(7, 7)])
@example([(1, 1)] * 19 + [(0, 7)])
def test_the_interval_of_a_share_lies_within_0_and_1(drawn: list[tuple[int, int]]) -> None:
    counts = np.array([count for _, count in drawn], dtype=np.float64)
    sums = np.array([min(seen, count) for seen, count in drawn], dtype=np.float64)
    (found,) = share_intervals([Totals(sums, counts)])
    assert 0.0 <= found.low <= sums.sum() / counts.sum() + 1e-12
    assert sums.sum() / counts.sum() - 1e-12 <= found.high <= 1.0


def test_totals_and_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"shapes \(2,\) and \(3,\)"):
        Totals(np.ones(2), np.ones(3))
    with pytest.raises(InvalidInputError, match=r"a count is -1.0"):
        Totals(np.ones(2), np.array([1.0, -1.0]))
    with pytest.raises(InvalidInputError, match="2 names of texts"):
        interval_of_mean([1.0, 2.0, 3.0], ["a", "b"])

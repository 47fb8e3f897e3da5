"""Claims: figures are what their sources define; views, buckets and groups are told apart."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forwardcache.errors import InvalidInputError
from forwardcache.statistics import Figures, Interval, Positions, Summary, summaries, view_as_json
from forwardcache.statistics.figures import correlation
from forwardcache.statistics.figures import figures as figures_of
from forwardcache.statistics.spread import PERCENTILES, percentiles, spread_of
from forwardcache.statistics.summary import entropy_quartiles
from tests.statistics.made import drawn, item, with_kl

UNKNOWN = Interval(math.nan, math.nan, 0)


def summary(positions: Positions, groups: list[str] | None = None) -> Summary:
    return summaries({"ft": positions}, groups=groups)["ft"]


def one(positions: Positions) -> Figures:
    return figures_of([positions])[0]


# Percentiles


def test_percentiles_by_hand() -> None:
    # Of 0, 10, ... 100 the p-th percentile is p.
    found = spread_of(np.arange(0.0, 101.0, 10.0)[::-1], 50.0, UNKNOWN)
    assert [getattr(found, name) for name in PERCENTILES] == pytest.approx(
        [1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9]
    )
    assert (found.mean, found.max) == (50.0, 100.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_percentiles_are_those_of_numpy(values: list[float]) -> None:
    asked = list(PERCENTILES.values())
    found = percentiles(np.array(values), asked)
    assert found == pytest.approx(np.percentile(values, asked), rel=1e-9, abs=1e-6)
    assert (np.diff(found) >= 0.0).all()


def test_infinities_are_values_like_others_and_no_value_has_no_percentile() -> None:
    assert percentiles(np.array([1.0, math.inf, math.inf]), [0, 50, 75, 100]).tolist() == [
        1.0, math.inf, math.inf, math.inf,
    ]  # fmt: skip
    assert np.isnan(percentiles(np.empty(0), [50.0])).all()


# One set of positions


def test_perplexities_and_their_ratio_by_hand() -> None:
    # 1/2 and 1/8 of the reference, 1/2 and 1/2 of the view: perplexities 4 and 2.
    text = item([1, 2, 3], logprob_reference=np.log([0.5, 0.125]), logprob=np.log([0.5, 0.5]))
    found = one(Positions.of([text]))
    assert [found.ppl_reference, found.ppl] == pytest.approx([4.0, 2.0])
    assert found.ppl_ratio == pytest.approx(0.5)
    assert found.mean_abs_delta_logprob == pytest.approx(math.log(4) / 2)
    # 0 and 3/8 of probability.
    assert found.delta_p.mean == pytest.approx(3 / 16)
    assert found.delta_p.rms == pytest.approx(3 / 8 / math.sqrt(2))
    assert found.delta_p.max == pytest.approx(3 / 8)
    assert found.delta_p.percentiles["median"] == pytest.approx(3 / 16)


def test_the_interval_of_the_ratio_is_of_paired_differences() -> None:
    chance = np.random.default_rng(0)
    items = []
    for number in range(60):
        # Texts differ in difficulty far more than the models do.
        logprob = np.float32(-chance.exponential(3.0)) - chance.exponential(0.1, 10)
        moved = logprob - chance.normal(0.01, 0.001, 10)
        items.append(item([number, *range(10)], logprob_reference=logprob, logprob=moved))
    found = one(Positions.of(items))
    interval = found.ppl_ratio_interval
    assert interval.low < found.ppl_ratio < interval.high
    assert interval.low == pytest.approx(math.exp(0.01), abs=3e-4)
    assert interval.high - interval.low < 1e-3


def test_shares_and_agreement_are_means_over_positions() -> None:
    long = item([1, 2, 3, 4], same_top=[True, True, False], top_k_agreement=[1.0, 0.8, 0.2])
    found = one(Positions.of([long, item([9, 8], same_top=[False], top_k_agreement=[0.4])]))
    assert [found.same_top, found.top_k_agreement] == pytest.approx([0.5, 0.6])
    assert (found.positions, found.texts) == (4, 2)


def test_correlation_is_pearsons() -> None:
    chance = np.random.default_rng(0)
    left = chance.normal(size=200)
    right = 0.3 * left + chance.normal(size=200)
    assert correlation(left, right) == pytest.approx(stats.pearsonr(left, right).statistic)
    assert correlation(left, left) == 1.0
    assert correlation(left, -2 * left) == -1.0
    assert correlation([1, 2, 3], [2, 2, 5]) == pytest.approx(math.sqrt(3) / 2)
    for constant in ([0.1] * 200, [0.0] * 200):
        assert math.isnan(correlation(left, constant))
    assert math.isnan(correlation([], []))
    assert math.isnan(correlation([1.0, math.inf], [1.0, 2.0]))


def test_nothing_that_differs_gives_zeros_and_ones_and_no_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    found = one(Positions.of([item([number, 1, 2]) for number in range(30)]))
    assert (found.kl.mean, found.kl.max, found.js.p999, found.delta_p.rms) == (0.0,) * 4
    assert (found.kl.interval.low, found.kl.interval.high) == (0.0, 0.0)
    assert (found.same_top, found.same_top_interval.high) == (1.0, 1.0)
    assert found.same_top_interval.low == pytest.approx(0.025 ** (1 / 30))
    assert (found.ppl_ratio, found.ppl_ratio_interval.low) == (1.0, 1.0)
    assert not recwarn.list


def test_an_infinite_divergence_is_kept_and_has_no_interval(
    recwarn: pytest.WarningsRecorder,
) -> None:
    texts = [[0.1, 0.2]] * 29 + [[math.inf, 0.1]]
    found = one(with_kl(texts, logprob=[-math.inf, -1.0]))
    assert (found.kl.mean, found.kl.max) == (math.inf, math.inf)
    assert found.kl.median == pytest.approx(0.15)
    assert (found.kl.interval.is_known, found.ppl) == (False, math.inf)
    assert found.as_json()["kl"]["mean"] is None
    json.dumps(found.as_json(), allow_nan=False)
    assert not recwarn.list


def test_no_positions_have_no_figures(recwarn: pytest.WarningsRecorder) -> None:
    found = summary(Positions.of([]))
    json.dumps(view_as_json(found), allow_nan=False)
    assert (found.figures.positions, found.figures.texts) == (0, 0)
    assert math.isnan(found.figures.kl.mean)
    assert found.figures.as_json()["ppl_ratio"] is None
    assert summaries({}) == {}
    assert not recwarn.list


# Buckets and groups


def test_buckets_are_the_quarters_of_the_runs_entropies() -> None:
    entropy = np.arange(1.0, 9.0)
    text = item(range(9), kl=entropy, entropy_reference=entropy[::-1])
    found = summary(Positions.of([text]))
    assert [(one.low, one.high) for one in found.buckets] == [
        (1.0, 2.75), (2.75, 4.5), (4.5, 6.25), (6.25, 8.0),
    ]  # fmt: skip
    assert [one.figures.kl.mean for one in found.buckets] == [7.5, 5.5, 3.5, 1.5]
    assert [one.figures.positions for one in found.buckets] == [2, 2, 2, 2]


def test_a_bound_belongs_to_the_bucket_below_and_equal_entropies_stay_together() -> None:
    text = item(range(6), entropy_reference=[0.0, 0.0, 0.0, 0.0, 1.0])
    found = summary(Positions.of([text]))
    assert [one.figures.positions for one in found.buckets] == [4, 0, 0, 1]


def test_quartiles_are_over_all_views_of_a_run() -> None:
    short = Positions.of([item([1, 2, 3], entropy_reference=[1.0, 2.0])])
    long = Positions.of([item([4, 5, 6, 7], entropy_reference=[3.0, 4.0, 5.0])])
    assert entropy_quartiles([short, long]).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert entropy_quartiles([short, short]).tolist() == entropy_quartiles([short]).tolist()


def test_ranges_of_positions_are_powers_of_2() -> None:
    found = summary(Positions.of([item(range(11), kl=np.arange(1.0, 11.0)), item([5, 6], kl=[4])]))
    assert [(one.low, one.high, one.figures.positions) for one in found.by_position] == [
        (1, 1, 2), (2, 3, 2), (4, 7, 4), (8, 15, 3),
    ]  # fmt: skip
    assert [one.figures.kl.mean for one in found.by_position] == [2.5, 2.5, 5.5, 9.0]


def test_groups_are_of_items_and_what_each_would_be_alone() -> None:
    chance = np.random.default_rng(0)
    positions = drawn(chance, texts=70)
    groups = ["odd" if number % 2 else "even" for number in range(70)]
    found = summary(positions, groups)
    assert list(found.groups) == ["even", "odd"]
    for name, parity in (("even", 0), ("odd", 1)):
        alone = with_kl([positions.kl[positions.item == number].tolist()
                         for number in range(70) if number % 2 == parity])  # fmt: skip
        expected = one(alone)
        assert found.groups[name].kl == expected.kl
        assert found.groups[name].texts == 35
    with pytest.raises(InvalidInputError, match="item 69 has no group, there are 3"):
        summary(positions, ["a", "b", "c"])


def test_a_field_may_have_as_many_values_as_there_are_items() -> None:
    texts = 300
    found = summary(
        with_kl([[float(number)] for number in range(texts)]), [*map(str, range(texts))]
    )
    assert len(found.groups) == texts
    assert found.groups["299"].kl.mean == 299.0


def test_a_view_has_the_same_figures_whatever_is_asked_with_it() -> None:
    chance = np.random.default_rng(1)
    views = {f"v{number}": drawn(chance, texts=40) for number in range(3)}
    together = summaries(views)
    for view, positions in views.items():
        alone = summaries({view: positions})[view].figures
        ends = together[view].figures.kl.interval
        assert (ends.low, ends.high) == pytest.approx(
            (alone.kl.interval.low, alone.kl.interval.high), rel=1e-9
        )


def test_the_json_has_the_names_of_the_command_line() -> None:
    found = view_as_json(summary(drawn(np.random.default_rng(0), texts=30), ["a"] * 30))
    json.dumps(found, allow_nan=False)
    of_spread = {"mean", "interval", "max", *PERCENTILES}
    for name in ("kl", "kl_reverse", "js"):
        assert set(found[name]) == of_spread
    assert {"correlation", "buckets", "same_top", "top_k_agreement", "ppl", "ppl_reference",
            "ppl_ratio", "ppl_ratio_interval", "delta_p", "floor", "nulls", "visible_from_lambda",
            "groups"} <= set(found)  # fmt: skip
    assert {"mean", "rms"} <= set(found["delta_p"])
    assert (found["floor"], found["nulls"], found["visible_from_lambda"]) == (None, None, None)
    assert len(found["buckets"]) == 4
    assert found["groups"]["a"]["texts"] == 30
    low, high = found["kl"]["interval"]
    assert low < found["kl"]["mean"] < high

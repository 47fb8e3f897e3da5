"""Claims: bounds are held to point estimates, what can't be told is undecided, and one line says
figure, bound and interval.
"""

import math
from typing import Any

import numpy as np
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.statistics import (
    Bounds,
    Figures,
    Floor,
    FloorVerdict,
    Outcome,
    Positions,
    against_floor,
    judge,
    worst,
)
from forwardcache.statistics.figures import figures as figures_of
from tests.statistics.made import drawn, item, with_kl


def made(texts: int, kl: float) -> tuple[Figures, Positions]:
    chance = np.random.default_rng(0)
    values = kl * chance.lognormal(-0.08, 0.4, (texts, 10)) if kl else np.zeros((texts, 10))
    positions = with_kl(values.tolist())
    return figures_of([positions])[0], positions


def verdict(positions: Positions, floor: float) -> FloorVerdict:
    values = [[floor] * 10] * positions.texts
    return against_floor(positions, Floor.of([with_kl(values)]))


def the(outcomes: list[Outcome]) -> Outcome:
    (outcome,) = outcomes
    return outcome


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.bound: outcome.state for outcome in outcomes}


def test_no_bounds_have_no_outcome_and_are_kept() -> None:
    assert judge("ft", made(30, 0.1)[0], Bounds()) == []
    assert worst([]) == "ok"


def test_the_line_names_figure_bound_and_interval() -> None:
    figures, _ = made(120, 0.01)
    found = the(judge("ft", figures, Bounds(max_kl=0.005)))
    interval = figures.kl.interval
    assert found == Outcome("max_kl", "broken", (
        f"ft: mean KL {figures.kl.mean:.4g} nats is above --max-kl 0.005 (point estimate; "
        f"interval {interval.low:.4g} to {interval.high:.4g} over 120 texts)"))  # fmt: skip
    assert the(judge("ft", figures, Bounds(max_kl=0.02))).state == "ok"
    exactly = Bounds(max_kl=figures.kl.mean)
    assert the(judge("ft", figures, exactly)).state == "ok"


def test_bounds_on_points_need_no_interval() -> None:
    figures, _ = made(3, 0.01)
    found = the(judge("ft", figures, Bounds(max_kl=0.02)))
    assert found.state == "ok"
    assert "no interval: that takes 20 distinct texts, and there are 3" in found.line


def test_the_ratio_of_perplexities_and_the_share_of_the_same_top() -> None:
    texts = [
        item([number, 1, 2], logprob=[-1.5, -1.5], same_top=[True, False]) for number in range(25)
    ]
    (figures,) = figures_of([Positions.of(texts)])
    kept = Bounds(max_ppl_ratio=1.7, min_same_top=0.5)
    broken = Bounds(max_ppl_ratio=1.6, min_same_top=0.51)
    assert states(judge("ft", figures, kept)) == {"max_ppl_ratio": "ok", "min_same_top": "ok"}
    found = judge("ft", figures, broken)
    assert [one.state for one in found] == ["broken", "broken"]
    assert "perplexity ratio 1.649 is above --max-ppl-ratio 1.6 (point estimate;" in found[0].line
    assert "share of same top 0.5 is below --min-same-top 0.51 (point" in found[1].line


@pytest.mark.parametrize(
    ("expect", "kl", "state"),
    [("changed", 0.1, "ok"), ("changed", 0.001, "broken"),
     ("unchanged", 0.1, "broken"), ("unchanged", 0.001, "ok")],
)  # fmt: skip
def test_expected_is_what_can_or_can_not_be_told_from_rounding(
    expect: str, kl: float, state: str
) -> None:
    figures, positions = made(40, kl)
    found = the(judge("ft", figures, Bounds(expect=expect), floor=verdict(positions, 0.01)))
    assert found.state == state
    assert f"expected {expect}" in found.line
    assert "rough interval" in found.line
    assert "is unchanged" not in found.line


@pytest.mark.parametrize("expect", ["changed", "unchanged"])
def test_without_a_floor_or_with_few_texts_expected_is_undecided(expect: str) -> None:
    figures, positions = made(19, 0.1)
    found = the(judge("ft", figures, Bounds(expect=expect)))
    assert (found.state, "no floor was measured" in found.line) == ("undecided", True)
    found = the(judge("ft", figures, Bounds(expect=expect), floor=verdict(positions, 0.01)))
    assert found.state == "undecided"
    assert found.line == (
        f"ft: expected {expect}; not judged against rounding: that takes 20 distinct texts, and "
        f"there are 19 (KL {figures.kl.mean:.3g} nats, floor 0.01 nats)"
    )


def test_unchanged_with_a_bound_asks_for_the_intervals_upper_end() -> None:
    figures, positions = made(40, 0.001)
    floor = verdict(positions, 0.01)
    mean, high = figures.kl.mean, figures.kl.interval.high
    cases = {
        0.5 * mean: "broken",
        (mean + high) / 2: "undecided",
        high: "undecided",
        2 * high: "ok",
    }
    for bound, state in cases.items():
        both = Bounds(expect="unchanged", max_kl=bound)
        assert states(judge("ft", figures, both, floor=floor)) == {"expect": "ok", "max_kl": state}
        alone = the(judge("ft", figures, Bounds(max_kl=bound)))
        assert alone.state == ("broken" if bound < mean else "ok")
    few, _ = made(10, 0.001)
    both = Bounds(expect="unchanged", max_kl=1.0)
    assert states(judge("ft", few, both))["max_kl"] == "undecided"


def test_where_few_texts_differ_the_upper_end_is_the_farthest_of_them() -> None:
    figures = figures_of([with_kl([[0.0]] * 48 + [[1e-3]] * 2)])[0]
    assert figures.kl.interval.high == 1e-3
    for bound, state in ((1e-3, "undecided"), (2e-3, "ok")):
        found = judge("ft", figures, Bounds(expect="unchanged", max_kl=bound))
        assert states(found)["max_kl"] == state


def test_with_a_position_that_is_no_number_nothing_is_kept() -> None:
    figures, positions = made(40, 0.1)
    bounds = Bounds(expect="changed", max_kl=1.0, max_ppl_ratio=2.0, min_same_top=1.0)
    floor = verdict(positions, 0.01)
    kept = judge("ft", figures, bounds, floor=floor)
    assert {one.state for one in kept} == {"ok"}
    found = judge("ft", figures, bounds, floor=floor, left_out=37)
    assert {one.state for one in found} == {"undecided"}
    for before, after in zip(kept, found, strict=True):
        why = "37 of 437 positions hold a value that is no number: in no figure"
        assert after.line == f"{before.line}; {why}"
    broken = the(judge("ft", figures, Bounds(max_kl=0.01), left_out=1))
    assert broken.state == "broken"
    assert broken.line.endswith("1 of 401 positions holds a value that is no number: in no figure")


def test_a_figure_that_is_not_known_is_undecided() -> None:
    figures = figures_of([Positions.of([])])[0]
    found = judge("ft", figures, Bounds(max_kl=1.0, max_ppl_ratio=2.0, min_same_top=0.5))
    assert {one.state for one in found} == {"undecided"}
    assert found[0].line == "ft: mean KL isn't known, for max_kl"


def test_the_worst_of_all_outcomes_is_broken_then_undecided() -> None:
    ok, broken, undecided = (
        Outcome("max_kl", state, "") for state in ("ok", "broken", "undecided")
    )
    assert worst([ok]) == "ok"
    assert worst([ok, undecided]) == "undecided"
    assert worst([undecided, broken, ok]) == "broken"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expect": "same"}, "expect is 'same', allowed are changed and unchanged"),
        ({"max_kl": -1.0}, "max_kl is -1.0, allowed is a number 0 or more"),
        ({"max_kl": math.nan}, "max_kl is nan"),
        ({"max_ppl_ratio": math.inf}, "max_ppl_ratio is inf"),
        ({"min_same_top": 1.5}, "min_same_top is 1.5, allowed is a number from 0 to 1"),
    ],
)
def test_bounds_that_nothing_could_be_held_to_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Bounds(**changes)


def test_a_drawn_view_far_above_its_floor_is_as_expected() -> None:
    chance = np.random.default_rng(0)
    view, floor = drawn(chance, texts=64, scale=1e-2), drawn(chance, texts=64, scale=1e-3)
    (figures,) = figures_of([view])
    found = judge("ft", figures, Bounds(expect="changed"),
                  floor=against_floor(view, Floor.of([floor])))  # fmt: skip
    assert worst(found) == "ok"

"""Claims: a view is called distinguishable only above its floor, text by text; never unchanged."""

import json
import math

import numpy as np
import pytest

from benches.coverage import floor_rates
from forwardcache.errors import InvalidInputError
from forwardcache.statistics import Floor, Positions, against_floor, larger, summaries, view_as_json
from tests.statistics.made import drawn, item, same_texts, with_kl


def test_the_floor_by_hand() -> None:
    pairs = [with_kl([[1.0, 2.0], [3.0]]), with_kl([[3.0, 2.0], [1.0]])]
    found = Floor.of(pairs)
    assert found.mean == 2.0
    assert list(found.kl_of.values()) == [(2.0, 2.0), (2.0, 1.0)]
    assert found.p99 == pytest.approx(3.0)
    assert (found.same_top, found.mean_abs_delta_logprob) == (1.0, 0.0)


def test_flips_and_moves_of_the_floor_are_told() -> None:
    pair = Positions.of(
        [item([1, 2, 3], kl=[1e-4, 3e-4], same_top=[True, False], logprob=[-1.25, -0.5])]
    )
    found = Floor.of([pair])
    assert (found.same_top, found.mean_abs_delta_logprob) == (0.5, 0.375)


def test_a_floor_of_0_is_an_error_unless_nothing_differs() -> None:
    assert Floor.of([with_kl([[0.0, 0.0]])]).mean == 0.0
    with pytest.raises(InvalidInputError, match=r"mean is 0 although reruns differ, by up to 0\.5"):
        Floor.of([with_kl([[0.0, 0.0]], logprob=[-1.5, -1.0])])
    with pytest.raises(InvalidInputError, match="mean is 0 although reruns differ"):
        Floor.of([with_kl([[1e-9, -1e-9]])])
    for wrong in ([], [with_kl([[math.inf]])]):
        with pytest.raises(InvalidInputError, match="needs a position, and finite"):
            Floor.of(wrong)


def test_the_larger_floor_is_taken() -> None:
    small, large = Floor.of([with_kl([[1.0]])]), Floor.of([with_kl([[2.0]])])
    assert larger([small, large]) is large
    with pytest.raises(InvalidInputError, match="no floor"):
        larger([])


def test_a_difference_that_texts_share_with_the_floor_is_paired() -> None:
    base = drawn(np.random.default_rng(0), texts=40)
    # Each text 2 % above its floor; texts differ by half.
    found = against_floor(same_texts(base, base.kl * 1.02), Floor.of([base]))
    assert found.distinguishable is True
    assert found.words == "distinguishable from rounding"
    assert found.view_mean == pytest.approx(1.02 * found.mean)
    assert found.would_have_seen is None
    assert against_floor(base, Floor.of([base])).distinguishable is False


def test_nothing_at_all_is_not_distinguishable_and_never_called_unchanged() -> None:
    zeros = with_kl([[0.0, 0.0]] * 30)
    found = against_floor(zeros, Floor.of([zeros]))
    assert (found.distinguishable, found.share_above, found.would_have_seen) == (False, 0.0, 0.0)
    assert "not distinguishable from rounding on these texts" in found.words
    assert "unchanged" not in found.words
    json.dumps(found.as_json(), allow_nan=False)


def test_what_would_have_been_seen_is_above_the_floor_and_said() -> None:
    chance = np.random.default_rng(3)
    floor = Floor.of([drawn(chance, texts=40)])
    found = against_floor(drawn(chance, texts=40), floor)
    assert found.distinguishable is False
    assert found.would_have_seen is not None
    assert floor.mean < found.would_have_seen < 2 * floor.mean
    assert f"a mean above {found.would_have_seen:.2g} nats would have been seen" in found.words


def test_few_texts_give_no_verdict() -> None:
    chance = np.random.default_rng(0)
    view = drawn(chance, texts=30)
    floor = Floor.of([with_kl([[1e-9] * 20] * 19)])
    found = against_floor(view, floor)
    assert (found.distinguishable, found.would_have_seen, found.excess.texts) == (None, None, 19)
    assert found.words.startswith(
        "not judged against rounding: that takes 20 distinct texts, and there are 19"
    )
    assert against_floor(with_kl([]), floor).distinguishable is None


def test_an_infinite_divergence_is_no_rounding() -> None:
    floor = Floor.of([with_kl([[0.1]] * 30)])
    view = with_kl([[0.1]] * 29 + [[math.inf]])
    found = against_floor(view, floor)
    assert (found.distinguishable, found.would_have_seen) == (True, None)
    assert against_floor(with_kl([[math.inf]] * 5), floor).distinguishable is None
    json.dumps(found.as_json(), allow_nan=False)


def test_only_shared_texts_are_paired_and_all_positions_count_for_the_share_above() -> None:
    view = with_kl([[float(number)] * 2 for number in range(50)])
    floor = Floor.of([with_kl([[0.5] * 2] * 30)])
    found = against_floor(view, floor)
    assert found.excess.texts == 30
    assert found.view_mean == pytest.approx(14.5)
    assert found.share_above == pytest.approx(49 / 50)


def test_copies_of_a_text_in_the_view_weigh_as_in_the_floor() -> None:
    texts = [item([number, 1, 2], kl=[number, number]) for number in range(25)]
    floor = Floor.of([Positions.of(texts)])
    found = against_floor(Positions.of(texts + texts[:1] * 9), floor)
    assert (found.excess.low, found.excess.high, found.view_mean) == (0.0, 0.0, 12.0)


def test_rounding_alone_is_seldom_distinguishable_and_what_is_said_to_be_seen_is() -> None:
    false, seen = floor_rates(100, seed=1)
    # Rates of 0.025 and 0.75, and three deviations.
    assert false <= 0.07
    assert seen >= 0.62


def test_the_verdict_has_the_names_of_the_command_line() -> None:
    chance = np.random.default_rng(0)
    view = drawn(chance, texts=30)
    verdict = against_floor(view, Floor.of([drawn(chance, texts=30)]))
    found = view_as_json(summaries({"ft": view})["ft"], floor=verdict)["floor"]
    assert {"mean", "p99", "share_above", "distinguishable", "would_have_seen", "same_top",
            "mean_abs_delta_logprob"} <= set(found)  # fmt: skip

"""Claims: positions that count are kept with their text, item and place; equal texts are one."""

import math
from typing import Any

import numpy as np
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.statistics import Positions
from forwardcache.statistics.totals import MOST_CLUSTERS
from tests.statistics.made import item, with_kl


def test_positions_have_their_text_item_and_place() -> None:
    first, second, again = (
        item([7, 8, 9], kl=[1.0, 2.0]), item([5, 6], kl=[3.0]), item([7, 8, 9], kl=[1.0, 2.0])
    )  # fmt: skip
    found = Positions.of([first, second, again])
    assert found.kl.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0]
    assert found.text.tolist() == [0, 0, 1, 0, 0]
    assert found.item.tolist() == [0, 0, 1, 2, 2]
    assert found.place.tolist() == [1, 2, 1, 1, 2]
    assert (len(found), found.texts) == (5, 2)


def test_only_positions_that_count_are_kept_and_a_warm_up_is_left_out() -> None:
    text = item([1, 2, 3, 4, 5], kl=[1, 2, 3, 4], counts=[True, False, True, True])
    assert Positions.of([text]).kl.tolist() == [1, 3, 4]
    assert Positions.of([text]).place.tolist() == [1, 3, 4]
    assert Positions.of([text], skip_first=1).kl.tolist() == [3, 4]
    assert len(Positions.of([text], skip_first=9)) == 0
    with pytest.raises(InvalidInputError, match="skip_first is -1"):
        Positions.of([text], skip_first=-1)


@pytest.mark.parametrize("field", ["kl", "js", "logprob", "entropy_reference", "top_k_agreement"])
def test_a_position_with_no_number_is_left_out_and_counted(field: str) -> None:
    texts = [item([1, 2, 3], **{field: [math.nan, 0.5]}), item([4, 5])]
    texts.append(item([6, 7], **{field: [math.nan]}, counts=[False]))
    found = Positions.of(texts)
    assert (len(found), found.left_out, found.texts) == (2, 1, 2)
    assert found.item.tolist() == [0, 1]


def test_no_items_are_no_positions() -> None:
    found = Positions.of([])
    assert (len(found), found.texts) == (0, 0)
    assert Positions.of([item([1])]).texts == 0


def arrays(**changes: Any) -> dict[str, Any]:
    found = with_kl([[0.1, 0.2], [0.3]])
    names = ("names", "text", "item", "place", "kl", "kl_reverse", "js", "logprob_reference",
             "logprob", "entropy_reference", "same_top", "top_k_agreement")  # fmt: skip
    return {name: getattr(found, name) for name in names} | changes


def test_arrays_that_do_not_fit_are_refused() -> None:
    assert len(Positions(**arrays())) == 3
    with pytest.raises(InvalidInputError, match=r"js is of shape \(2,\).* 3 positions"):
        Positions(**arrays(js=[0.0, 0.0]))
    with pytest.raises(InvalidInputError, match="kl has an entry that is no number"):
        Positions(**arrays(kl=[0.0, math.nan, 0.0]))
    for wrong in ({"item": [-1, 0, 1]}, {"place": [0, 1, 1]}):
        with pytest.raises(InvalidInputError, match=r"items from .* and places from"):
            Positions(**arrays(**wrong))
    with pytest.raises(InvalidInputError, match="texts 0 to 2, allowed are those of 2 names"):
        Positions(**arrays(text=[0, 1, 2]))


def test_delta_p_is_the_views_probability_minus_the_references() -> None:
    found = Positions.of([item([1, 2], logprob_reference=np.log([0.25]), logprob=np.log([0.75]))])
    assert found.delta_p[0] == pytest.approx(0.5, rel=1e-6)
    assert found.delta_logprob[0] == pytest.approx(math.log(3), rel=1e-6)


def test_parts_are_the_positions_of_each_number() -> None:
    found = with_kl([[1.0, 2.0, 3.0], [4.0, 5.0]])
    parts = found.parted(np.array([2, 0, 2, 0, 2]), 4)
    assert [part.kl.tolist() for part in parts] == [[2.0, 4.0], [], [1.0, 3.0, 5.0], []]
    assert parts[2].text.tolist() == [0, 0, 1]
    assert parts[2].place.tolist() == [1, 3, 2]


def test_positions_of_some_items_have_only_their_texts() -> None:
    found = with_kl([[1.0], [2.0], [3.0, 4.0]]).of_items(np.array([False, True, True]))
    assert found.kl.tolist() == [2.0, 3.0, 4.0]
    assert found.text.tolist() == [0, 1, 1]
    assert len(found.names) == found.texts == 2


def test_means_by_text_are_over_all_its_copies() -> None:
    text = item([1, 2, 3], kl=[1.0, 3.0])
    found = Positions.of([text, item([4, 5], kl=[7.0]), text])
    assert list(found.means_by_text(found.kl).values()) == [(2.0, 4), (7.0, 1)]


def test_totals_of_very_many_texts_are_of_a_bounded_number_of_clusters() -> None:
    texts = 5 * MOST_CLUSTERS + 3
    number = np.repeat(np.arange(texts), 2)
    zeros: Any = np.zeros(2 * texts)
    found = Positions(
        names=range(texts), text=number, item=number, place=np.tile([1, 2], texts),
        kl=np.arange(2.0 * texts), kl_reverse=zeros, js=zeros, logprob_reference=zeros,
        logprob=zeros, entropy_reference=zeros, same_top=zeros, top_k_agreement=zeros,
    )  # fmt: skip
    (kl,) = found.totals(found.kl)
    assert (len(kl.sums), kl.texts) == (MOST_CLUSTERS, texts)
    assert kl.counts.sum() == 2 * texts
    assert set(kl.counts) == {10.0, 12.0}
    assert kl.mean == pytest.approx(texts - 0.5, rel=1e-12)

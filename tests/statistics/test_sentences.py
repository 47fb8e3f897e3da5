"""Claims: each of three answers names its question; what wasn't asked is not measured; nothing is
called unchanged, and a ratio never makes a verdict.
"""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from forwardcache.statistics import (
    Interval,
    NullComparison,
    ViewDifference,
    adjusted,
    among_nulls,
    answers,
    verdict_sentences,
)
from forwardcache.statistics.sentences import HOW_LITTLE, IS_MORE, IS_THERE
from tests.statistics.made_result import result_of


def view(mean: float = 0.3, *, texts: int = 30, floor: float | None = 1e-8) -> ViewDifference:
    return result_of({"ft": mean}, texts=texts, floor=floor).views[0]


def among(value: float, nulls: list[float], compared: int = 1) -> NullComparison:
    """The place of ``value``, as the first of so many comparisons that were made together."""
    return adjusted(dict.fromkeys(range(compared), among_nulls(value, nulls)))[0]


def of_nulls(nulls: NullComparison) -> str:
    return verdict_sentences(replace(view(), nulls=nulls))[1]


def of_scales(visible: float | None, least: float | None) -> str:
    found = replace(view(), visible_from_lambda=visible, detect_least=least)
    return verdict_sentences(found)[2]


def test_what_was_not_asked_is_not_measured() -> None:
    assert verdict_sentences(view(floor=None)) == (
        "Is it there at all? Not measured.",
        "Is it more than a random change of the same weight norm? Not measured.",
        "How little of it can be seen? Not measured.",
    )
    assert [one.is_measured for one in answers(view(floor=None))] == [False] * 3
    assert [one.is_measured for one in answers(view())] == [True, False, False]


def test_a_difference_above_rounding_is_there() -> None:
    found = view()
    assert found.floor is not None
    assert verdict_sentences(found)[0] == (
        f"{IS_THERE} Yes, ft is distinguishable from floating-point rounding on the 30 texts "
        f"measured: it moves predictions by {found.floor.view_mean:.2g} nats a token on average "
        f"(KL divergence), rounding alone by {found.floor.mean:.2g}."
    )


def test_one_below_rounding_is_not_seen_and_never_called_unchanged() -> None:
    found = view(1e-8, floor=1e-7)
    assert found.floor is not None
    assert found.floor.would_have_seen is not None
    said = verdict_sentences(found)[0]
    assert said.startswith(
        f"{IS_THERE} Not seen: ft is not distinguishable from floating-point rounding"
    )
    assert said.endswith(f"more than {found.floor.would_have_seen:.2g} would have been seen.")
    unknown = replace(found, floor=replace(found.floor, would_have_seen=None))
    assert verdict_sentences(unknown)[0].endswith(f"rounding alone by {found.floor.mean:.2g}.")


def test_few_texts_are_not_judged() -> None:
    assert verdict_sentences(view(texts=12))[0] == (
        f"{IS_THERE} Not judged: that takes 20 distinct texts, and there are 12."
    )


def test_an_infinite_divergence_is_said_in_words() -> None:
    floor = view().floor
    assert floor is not None
    infinite = replace(floor, view_mean=math.inf, excess=Interval(math.nan, math.nan, 30))
    assert "by infinitely many nats" in verdict_sentences(replace(view(), floor=infinite))[0]


def test_the_farthest_of_enough_nulls_is_more() -> None:
    assert of_nulls(among(12.0, [1.0] * 20)) == (
        f"{IS_MORE} Yes, significant at 0.05: of 20 random changes of the same weight norm none "
        "moves predictions as far (ft is first of 21; p = 0.048, the smallest that 20 allow); ft "
        "moves them 12 times as far as they do on average."
    )
    assert "p = 0.049 after Holm over 2 comparisons" in of_nulls(among(12.0, [1.0] * 40, 2))


@pytest.mark.parametrize(("farther", "words"), [(1, "1 moves"), (3, "3 move")])
def test_one_among_nulls_is_not_shown_to_be_more(farther: int, words: str) -> None:
    said = of_nulls(among(2.0, [3.0] * farther + [1.0] * (20 - farther)))
    assert said.startswith(
        f"{IS_MORE} Not shown at 0.05: of 20 random changes of the same weight norm"
    )
    assert f"{words} predictions at least as far" in said


def test_of_too_few_nulls_only_the_place_is_told() -> None:
    said = of_nulls(among(2.0, [1.0] * 10))
    assert "Too few to say" in said
    assert "ft is first of 11; to call it more at 0.05 takes 19 of them)" in said
    assert not re.search(r"p = |significant", said)
    assert "takes 59 of them over 3 comparisons)" in of_nulls(among(2.0, [1.0] * 20, 3))
    assert "of 1 random change of" in of_nulls(among(2.0, [1.0]))


def test_of_few_texts_nothing_is_significant() -> None:
    for texts, there in ((1, "there is 1"), (19, "there are 19")):
        few = replace(among(12.0, [1.0] * 20), texts=texts)
        assert of_nulls(few) == f"{IS_MORE} Not judged: that takes 20 distinct texts, and {there}."
        assert not few.is_significant
        assert few.words == f"not judged: that takes 20 distinct texts, and {there}"
    enough = replace(among(12.0, [1.0] * 20), texts=20)
    assert enough.is_significant
    assert "Yes, significant" in of_nulls(enough)


def test_no_ratio_is_told_where_nulls_lie_inside_the_floor_or_it_is_not_finite() -> None:
    inside = among_nulls(2.0, [1.0] * 20, inside_floor=True)
    assert of_nulls(inside).endswith("; on average they can't be told from rounding.")
    assert "times as far" not in of_nulls(inside)
    assert of_nulls(among_nulls(math.inf, np.ones(20))).endswith("that 20 allow).")
    assert "ft moves them 1,234 times as far" in of_nulls(among(1234.0, [1.0] * 20))


def test_how_little_can_be_seen() -> None:
    assert of_scales(0.07, 2**-10) == (
        f"{HOW_LITTLE} Scaled to λ = 0.07 or more, the adapter is distinguishable from rounding; "
        "scaled to less it was not."
    )
    assert "scaled to λ = 0.001, the smallest that was tried" in of_scales(2**-10, 2**-10)
    assert "at λ = 1, its full strength, the adapter is not disting" in of_scales(None, 2**-10)
    few = replace(view(texts=12), detect_least=2**-10)
    assert verdict_sentences(few)[2].startswith(f"{HOW_LITTLE} Not judged: that takes 20 distinct")


def test_no_sentence_says_unchanged_or_that_the_model_changed() -> None:
    nulls = [among(2.0, [1.0] * 20), among(0.5, [1.0] * 20), among(2.0, [1.0]), None]
    for mean, floor in ((0.3, 1e-8), (1e-8, 1e-7), (0.3, None)):
        for null in nulls:
            for said in verdict_sentences(replace(view(mean, floor=floor), nulls=null)):
                assert not re.search("unchanged|changed the model|sigma|deviation", said)
                assert said.endswith(".")

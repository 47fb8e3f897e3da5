"""What was found of one view, as a sentence for each of three questions that are kept apart.

A difference that is there needn't be more than a random change makes, and neither says how little
of it can be seen. So each answer names its question, and one that wasn't asked is said to be not
measured. Nothing is ever called unchanged, and nothing is said to have changed the model because of
a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from forwardcache.statistics.floor import FloorVerdict
from forwardcache.statistics.intervals import FEWEST_TEXTS, ROUGH_TEXTS
from forwardcache.statistics.nulls import SIGNIFICANT_IN, NullComparison
from forwardcache.statistics.result import ViewDifference
from forwardcache.statistics.words import no_number, too_few

IS_THERE = "Is it there at all?"
IS_MORE = "Is it more than a random change of the same weight norm?"
HOW_LITTLE = "How little of it can be seen?"
NOT_MEASURED = "Not measured."
OTHER_NORM = (
    "Null views with a deviation have a weight norm of their own, so they don't say how far a "
    "random change of the adapter's norm moves the model; null:SEED:matched does."
)

BELOW_ZERO = "Some divergences are below 0: that is rounding, and isn't cut off."


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        question: Which of the three it answers.
        words: What was found, as a sentence.
    """

    question: str
    words: str

    @property
    def is_measured(self) -> bool:
        """Whether anything was."""
        return self.words != NOT_MEASURED

    def __str__(self) -> str:
        return f"{self.question} {self.words}"


def answers(view: ViewDifference) -> tuple[Answer, Answer, Answer]:
    """The three answers for one view: against rounding, among matched nulls, by scale.

    Args:
        view: What was found of it.
    """
    return (
        Answer(IS_THERE, _against_rounding(view.view, view.floor)),
        Answer(IS_MORE, among_random_changes(view.view, view.nulls)),
        Answer(HOW_LITTLE, _by_scale(view)),
    )


def verdict_sentences(view: ViewDifference) -> tuple[str, str, str]:
    """The three answers as text, each beginning with its question.

    Args:
        view: What was found of it.
    """
    is_there, is_more, how_little = answers(view)
    return str(is_there), str(is_more), str(how_little)


def interval_notes(texts: int, views: int) -> list[str]:
    """What intervals are over, or why there are none, a sentence each.

    Args:
        texts: Distinct texts that they are over.
        views: How many views have one.
    """
    if texts < FEWEST_TEXTS:
        return [f"No intervals: {too_few(texts, FEWEST_TEXTS)}."]
    rough = f"; rough, as of all under {ROUGH_TEXTS}" if texts < ROUGH_TEXTS else ""
    said = [f"Intervals are over {texts:,} distinct texts{rough}."]
    alone = f"Each interval is for itself, not for {views} views at once."
    return [*said, alone] if views > 1 else said


def left_out_notes(views: Sequence[ViewDifference]) -> list[str]:
    """Of each view with positions that are in no figure, and others that are: how many of how many.

    Args:
        views: What was found of each.
    """
    return [
        f"{one.view}: {no_number(left_out, one.summary.figures.positions + left_out)}."
        for one in views
        if (left_out := one.summary.left_out) and one.summary.figures.positions
    ]


def _against_rounding(view: str, floor: FloorVerdict | None) -> str:
    if floor is None:
        return NOT_MEASURED
    texts = floor.excess.texts
    if floor.distinguishable is None:
        return _not_judged(texts)
    found = f"from floating-point rounding on the {texts:,} texts measured"
    moved = f"{_nats(floor.view_mean)} nats a token on average (KL divergence)"
    rounding = f"rounding alone by {_nats(floor.mean)}"
    if floor.distinguishable:
        return (
            f"Yes, {view} is distinguishable {found}: it moves predictions by {moved}, {rounding}."
        )
    said = f"{view} is not distinguishable {found}: it moves predictions by {moved}, {rounding}"
    if floor.would_have_seen is None:
        return f"Not seen: {said}."
    return f"Not seen: {said}; more than {_nats(floor.would_have_seen)} would have been seen."


def among_random_changes(view: str, nulls: NullComparison | None) -> str:
    """The second answer: whether a view is more than a random change of the same weight norm.

    Args:
        view: Its id.
        nulls: Its place among matched nulls; None where there are none.
    """
    if nulls is None:
        return NOT_MEASURED
    if not nulls.is_judged:
        return _not_judged(nulls.texts or 0)
    if not nulls.has_enough:
        needed = SIGNIFICANT_IN * nulls.compared - 1
        return (
            f"Too few to say: {_as_far(nulls)} ({view} is {nulls.place}; to call it more at 0.05 "
            f"takes {needed:,} of them{_over(nulls)}){_ratio(view, nulls)}."
        )
    verdict = "Yes, significant at 0.05" if nulls.is_significant else "Not shown at 0.05"
    return (
        f"{verdict}: {_as_far(nulls)} ({view} is {nulls.place}; {_p(nulls)}){_ratio(view, nulls)}."
    )


def _p(nulls: NullComparison) -> str:
    p = f"p = {nulls.p_adjusted:.2g}" + (f" after Holm{over}" if (over := _over(nulls)) else "")
    is_smallest = nulls.p_adjusted <= nulls.p_smallest
    return f"{p}, the smallest that {nulls.n:,} allow" if is_smallest else p


def _as_far(nulls: NullComparison) -> str:
    """How many of the nulls are at least as far as the view."""
    count = nulls.rank - 1
    changes = "1 random change" if nulls.n == 1 else f"{nulls.n:,} random changes"
    if not count:
        return f"of {changes} of the same weight norm none moves predictions as far"
    moves = "1 moves" if count == 1 else f"{count:,} move"
    return f"of {changes} of the same weight norm {moves} predictions at least as far"


def _over(nulls: NullComparison) -> str:
    return "" if nulls.compared == 1 else f" over {nulls.compared:,} comparisons"


def _ratio(view: str, nulls: NullComparison) -> str:
    ratio = nulls.ratio_to_mean
    if ratio is None:
        return "; on average they can't be told from rounding"
    if not math.isfinite(ratio):
        return ""
    times = f"{ratio:,.0f}" if ratio >= 100.0 else f"{ratio:.2g}"
    return f"; {view} moves them {times} times as far as they do on average"


def _by_scale(view: ViewDifference) -> str:
    visible, least = view.visible_from_lambda, view.detect_least
    if visible is None and least is None:
        return NOT_MEASURED
    if visible is None and view.floor is not None and view.floor.distinguishable is None:
        return _not_judged(view.floor.excess.texts)
    what = "the adapter" if view.adapter is None else f"adapter {view.adapter}"
    if visible is None:
        return (
            f"None of it: even at λ = 1, its full strength, {what} is not distinguishable from "
            "rounding on these texts."
        )
    if least is not None and visible <= least:
        return (
            f"Even scaled to λ = {visible:.1g}, the smallest that was tried, {what} is "
            "distinguishable from rounding."
        )
    return (
        f"Scaled to λ = {visible:.2g} or more, {what} is distinguishable from rounding; "
        "scaled to less it was not."
    )


def _not_judged(texts: int) -> str:
    return f"Not judged: {too_few(texts, FEWEST_TEXTS)}."


def _nats(value: float) -> str:
    return "infinitely many" if value == math.inf else f"{value:.2g}"

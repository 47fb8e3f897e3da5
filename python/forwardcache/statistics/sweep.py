"""What was found of many views, as one answer for each of the three questions.

Fifty sentences aren't read. So views of one verdict are counted, and those of the rarer one named;
each answer keeps to its question, as ``sentences`` does for one view.
"""

from __future__ import annotations

from collections.abc import Sequence

from forwardcache.statistics.nulls import SIGNIFICANT_IN
from forwardcache.statistics.result import ViewDifference
from forwardcache.statistics.sentences import HOW_LITTLE, IS_MORE, IS_THERE, NOT_MEASURED, Answer

_MOST_NAMED = 6


def answers_of_all(views: Sequence[ViewDifference]) -> tuple[Answer, Answer, Answer]:
    """The three answers for all views together.

    Args:
        views: What was found of each.
    """
    return (
        Answer(IS_THERE, _against_rounding(views)),
        Answer(IS_MORE, _among_nulls(views)),
        Answer(HOW_LITTLE, _by_scale(views)),
    )


def _against_rounding(views: Sequence[ViewDifference]) -> str:
    known = [(one, one.floor) for one in views if one.floor is not None]
    if not known:
        return NOT_MEASURED
    yes = [one.view for one, floor in known if floor.distinguishable]
    no = [one.view for one, floor in known if floor.distinguishable is False]
    unjudged = [one.view for one, floor in known if floor.distinguishable is None]
    said = []
    if yes or no:
        said.append(
            f"{len(yes):,} of {len(yes) + len(no):,} views are distinguishable from floating-point "
            "rounding on the texts measured"
        )
    if no:
        seen = [floor.would_have_seen for _, floor in known if floor.would_have_seen is not None]
        bound = f" (a mean above {max(seen):.2g} nats would have been seen)" if seen else ""
        said.append(f"not distinguishable: {_named(no)}{bound}")
    if unjudged:
        said.append(f"not judged, for too few texts: {_named(unjudged)}")
    return f"{'; '.join(said)}."


def _among_nulls(views: Sequence[ViewDifference]) -> str:
    known = [(one, one.nulls) for one in views if one.nulls is not None]
    if not known:
        return NOT_MEASURED
    judged = [(one.view, nulls) for one, nulls in known if nulls.is_judged]
    said = []
    if judged and not all(nulls.has_enough for _, nulls in judged):
        first = sum(nulls.rank == 1 for _, nulls in judged)
        compared, n = judged[0][1].compared, judged[0][1].n
        said.append(
            f"Too few to say: {first:,} of {len(judged):,} views are farther than all of their "
            f"{n:,} random changes; to call one more at 0.05 over {compared:,} comparisons takes "
            f"{SIGNIFICANT_IN * compared - 1:,} of them"
        )
    elif judged:
        yes = [view for view, nulls in judged if nulls.is_significant]
        no = [view for view, nulls in judged if not nulls.is_significant]
        said.append(
            f"{len(yes):,} of {len(judged):,} views are, significant at 0.05 after Holm over "
            f"{judged[0][1].compared:,} comparisons"
        )
        if no:
            said.append(f"not shown for {_named(no)}")
    if unjudged := [one.view for one, nulls in known if not nulls.is_judged]:
        said.append(f"not judged, for too few texts: {_named(unjudged)}")
    return f"{'; '.join(said)}."


def _by_scale(views: Sequence[ViewDifference]) -> str:
    known = [one for one in views if one.detect_least is not None]
    return f"{'; '.join(map(_smallest, known))}." if known else NOT_MEASURED


def _smallest(one: ViewDifference) -> str:
    lam, least, name = one.visible_from_lambda, one.detect_least, one.adapter or "the adapter"
    if lam is None and one.floor is not None and one.floor.distinguishable is None:
        return f"{name} was not judged, for too few texts"
    if lam is None:
        return f"{name} is not distinguishable from rounding even at λ = 1"
    if least is not None and lam <= least:
        return f"{name} is distinguishable even at λ = {lam:.1g}, the smallest that was tried"
    return f"{name} is distinguishable from λ = {lam:.2g} on"


def _named(views: Sequence[str]) -> str:
    shown = ", ".join(views[:_MOST_NAMED])
    more = len(views) - _MOST_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown

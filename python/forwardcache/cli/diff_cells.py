"""How single figures of a comparison look to a person: numbers, shares, verdicts, names."""

from __future__ import annotations

import math
from collections.abc import Callable

from forwardcache.jobs.summary import significant
from forwardcache.statistics import Interval, ViewDifference

NONE = "-"
NOT_MEASURED = "not measured"
NOT_JUDGED = "not judged"
_LONGEST_NAME = 32


def told(one: ViewDifference) -> str:
    """Whether a view can be told from rounding."""
    if one.floor is None:
        return NOT_MEASURED
    if one.floor.distinguishable is None:
        return NOT_JUDGED
    return "yes" if one.floor.distinguishable else "no"


def rounding(one: ViewDifference) -> str:
    """Rounding's mean KL, nats."""
    return NONE if one.floor is None else significant(one.floor.mean, 3)


def same_top(one: ViewDifference) -> str:
    """Rounding's share of the same top token."""
    return NONE if one.floor is None else share(one.floor.same_top)


def would_have_seen(one: ViewDifference) -> str:
    """The mean KL, nats, that would have been seen."""
    if one.floor is None or one.floor.would_have_seen is None:
        return NONE
    return significant(one.floor.would_have_seen, 3)


def place(one: ViewDifference) -> str:
    """A view's place among its nulls."""
    if one.nulls is None:
        return NOT_MEASURED
    return one.nulls.place if one.nulls.is_judged else NOT_JUDGED


def p_value(one: ViewDifference) -> str:
    """Its p after Holm, where there are nulls and texts enough for one."""
    is_told = one.nulls is not None and one.nulls.is_judged and one.nulls.has_enough
    return f"{one.nulls.p_adjusted:.2g}" if one.nulls is not None and is_told else NONE


def times(one: ViewDifference) -> str:
    """Its mean KL by the nulls' mean."""
    found = None if one.nulls is None else one.nulls.ratio_to_mean
    return NONE if found is None else number(found, 3)


def visible(one: ViewDifference) -> str:
    """The smallest scale of the adapter that can be told from rounding."""
    lam, least = one.visible_from_lambda, one.detect_least
    if lam is None and least is None:
        return NOT_MEASURED
    if lam is None:
        return "not at 1" if one.floor and one.floor.distinguishable is not None else NOT_JUDGED
    return f"below {lam:.1g}" if least is not None and lam <= least else f"{lam:.2g}"


def texts(count: int) -> str:
    """The word for so many."""
    return "text" if count == 1 else "texts"


def name(given: str) -> str:
    """A name that neither moves the cursor nor takes all of a line."""
    shown = plain(given)
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def plain(text: str) -> str:
    """Text that doesn't move the cursor."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def number(value: float, digits: int = 4) -> str:
    """A figure to so many digits."""
    return NONE if math.isnan(value) else significant(value, digits)


def nats(value: float) -> str:
    """An end of an interval: those of a bootstrap are known to no more digits."""
    return significant(value, 3)


def ends(interval: Interval, as_text: Callable[[float], str]) -> str:
    """An interval."""
    if not interval.is_known:
        return NONE
    return f"{as_text(interval.low)} to {as_text(interval.high)}"


def share(value: float) -> str:
    """A share in percent; never all or none where it is not."""
    if math.isnan(value):
        return NONE
    if 0.0 < value < 0.00005:
        return "<0.01%"
    return ">99.99%" if 0.99995 <= value < 1.0 else f"{value:.2%}"


def ratio(value: float) -> str:
    """A ratio with as many digits as its distance from 1 takes."""
    distance = abs(value - 1.0)
    if not math.isfinite(value) or distance >= 0.1 or distance == 0.0:
        return number(value)
    return f"{value:.{min(2 - math.floor(math.log10(distance)), 12)}f}"

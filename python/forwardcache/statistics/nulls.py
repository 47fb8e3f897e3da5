"""Is a difference more than what a random change of the same weight norm makes?

Each matched null is a random adapter of the trained one's norm, so if the trained one were just
another draw, its place among n nulls and itself would be uniform: p = (k+1)/(n+1). With n nulls and
m comparisons no p after Holm can be below m/(n+1), so 0.05 takes n ≥ 20·m - 1 nulls; with fewer
only the place is told, and nothing is called significant.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.errors import InvalidInputError
from forwardcache.statistics.floor import Floor, excess_over
from forwardcache.statistics.intervals import FEWEST_TEXTS, intervals
from forwardcache.statistics.positions import Positions
from forwardcache.statistics.spread import finite
from forwardcache.statistics.words import too_few

SIGNIFICANT_IN = 20
"""One in so many is the bound of what is called significant: 0.05."""

Key = TypeVar("Key", bound=Hashable)
TextMeans = Mapping[Hashable, tuple[float, int]]
"""By name of a text: the mean of a figure over its positions, and how many these are."""
Figure = Literal["kl", "abs_delta_logprob"]
_ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class NullComparison:
    """Where a view stands among matched nulls.

    Attributes:
        n: Number of nulls, 1 or more.
        mean: Mean of the nulls' figures, in the figure's unit; so are ``sd``, ``max``, ``value``.
        sd: Their standard deviation, with n - 1; NaN for one null, or an infinite mean.
        max: The largest of them.
        value: The view's own figure over the same texts.
        rank: The view's place among n + 1, farthest first; a null that is just as far comes before.
        p: (k+1)/(n+1), with k nulls at least as far as the view.
        p_adjusted: After Holm, over ``compared`` comparisons.
        p_smallest: The smallest ``p_adjusted`` that n and ``compared`` allow: compared/(n+1).
        compared: Comparisons that were made together: views times groups.
        ratio_to_mean: ``value / mean``; None while the nulls' mean lies inside the floor, or is 0;
            NaN where it is infinite.
        texts: Distinct texts that the figures are over; None where those aren't known.
    """

    n: int
    mean: float
    sd: float
    max: float
    value: float
    rank: int
    p: float
    p_adjusted: float
    p_smallest: float
    compared: int
    ratio_to_mean: float | None
    texts: int | None = None

    @property
    def is_judged(self) -> bool:
        """Whether there are texts enough to say anything of other ones."""
        return self.texts is None or self.texts >= FEWEST_TEXTS

    @property
    def has_enough(self) -> bool:
        """Whether there are nulls enough for a p of 0.05 at all."""
        return self.n + 1 >= SIGNIFICANT_IN * self.compared

    @property
    def is_significant(self) -> bool:
        """Whether ``p_adjusted`` is at most 0.05; never so with too few nulls, or texts."""
        is_low = self.p_adjusted * SIGNIFICANT_IN <= 1.0 + 1e-9
        return self.is_judged and self.has_enough and is_low

    @property
    def place(self) -> str:
        """The view's place in words, such as ``first of 21``."""
        return f"{_ordinal(self.rank)} of {self.n + 1}"

    @property
    def words(self) -> str:
        """The verdict in words: the place alone where the nulls are too few for more."""
        if not self.is_judged:
            return f"not judged: {too_few(self.texts or 0, FEWEST_TEXTS)}"
        if not self.has_enough:
            return self.place
        over = "1 comparison" if self.compared == 1 else f"{self.compared:,} comparisons"
        verdict = "significant" if self.is_significant else "not significant"
        return f"{self.place}, {verdict} at 0.05: p = {self.p_adjusted:.2g} after Holm over {over}"

    def as_json(self) -> dict[str, Any]:
        """By name; what is no finite number, and a p of too few texts, is None."""
        return {
            "n": self.n,
            "mean": finite(self.mean),
            "sd": finite(self.sd),
            "max": finite(self.max),
            "value": finite(self.value),
            "rank": self.rank,
            "p": self.p if self.is_judged else None,
            "p_adjusted": self.p_adjusted if self.is_judged else None,
            "p_smallest": self.p_smallest,
            "compared": self.compared,
            "ratio_to_mean": finite(self.ratio_to_mean),
            "texts": self.texts,
            "significant": self.is_significant,
        }


def among_nulls(value: float, nulls: ArrayLike, *, inside_floor: bool = False) -> NullComparison:
    """Where one figure stands among those of matched nulls, as the only comparison.

    Args:
        value: The view's: a mean KL, or a mean absolute difference.
        nulls: float64[n], the nulls', over the same texts.
        inside_floor: Whether the nulls' mean can't be told from rounding.

    Raises:
        InvalidInputError: there is no null, or a figure is no number.

    Source:
        Phipson and Smyth, Permutation P-values Should Never Be Zero (2010).
    """
    known = np.asarray(nulls, dtype=np.float64)
    if known.ndim != 1 or not len(known):
        raise InvalidInputError(f"need one figure a null, one or more, got shape {known.shape}")
    if math.isnan(value) or np.isnan(known).any():
        raise InvalidInputError(f"a figure is no number: the view's {value}, the nulls' {known}")
    n, at_least_as_far = len(known), int(np.sum(known >= value))
    mean, sd, ratio = float(known.mean()), math.nan, math.nan
    if math.isfinite(mean):
        sd = float(known.std(ddof=1)) if n > 1 else math.nan
        ratio = value / mean if mean else math.nan
    return NullComparison(
        n=n,
        mean=mean,
        sd=sd,
        max=float(known.max()),
        value=float(value),
        rank=at_least_as_far + 1,
        p=(at_least_as_far + 1) / (n + 1),
        p_adjusted=(at_least_as_far + 1) / (n + 1),
        p_smallest=1 / (n + 1),
        compared=1,
        ratio_to_mean=None if inside_floor or mean == 0.0 else ratio,
    )


def against_nulls(
    view: Positions,
    nulls: Sequence[Positions | TextMeans],
    *,
    floor: Floor | None = None,
    figure: Figure = "kl",
) -> NullComparison:
    """Where a view stands among matched nulls, over the texts that all of them have.

    Args:
        view: Its positions, of more texts than the nulls' or as many.
        nulls: One a seed; of each text's mean of ``figure``, nothing else of a null is needed.
        floor: What rounding makes; the nulls' mean lies inside of it where it isn't
            distinguishable, or, of fewer texts than an interval takes, isn't above the floor's.
        figure: What is averaged over positions: KL, or the absolute difference in log-probability
            of the token that follows (for figures with a sign, whose means cancel).

    Raises:
        InvalidInputError: no text is shared, or a mean is no number.
    """
    means = [_means_by_text(each, figure) for each in (view, *nulls)]
    shared = [name for name in means[0] if all(name in each for each in means[1:])]
    if not nulls or not shared:
        raise InvalidInputError(
            f"{len(shared)} texts are in the view and in all of {len(nulls)} nulls: need one null "
            "and one text or more"
        )
    # Weighed by one null's positions in all: a text may stand more often in the view.
    weights = np.array([means[1][name][1] for name in shared], dtype=np.float64)
    found = np.array([[each[name][0] for name in shared] for each in means])
    # A product of matrices rounds equal rows differently, and they are to be equally far.
    values = (found * weights).sum(axis=1) / weights.sum()
    of_nulls = dict(zip(shared, found[1:].mean(axis=0), strict=True))
    inside = floor is not None and _is_inside(of_nulls, float(values[1:].mean()), floor, figure)
    found_among = among_nulls(float(values[0]), values[1:], inside_floor=inside)
    return replace(found_among, texts=len(shared))


def mean_of_texts(means: TextMeans) -> float:
    """The mean over positions; NaN without any.

    Args:
        means: Of each text.
    """
    count = sum(count for _, count in means.values())
    return sum(mean * count for mean, count in means.values()) / count if count else math.nan


def _means_by_text(positions: Positions | TextMeans, figure: Figure) -> TextMeans:
    if not isinstance(positions, Positions):
        return positions
    values = positions.kl if figure == "kl" else np.abs(positions.delta_logprob)
    return positions.means_by_text(values)


def _is_inside(
    of_text: Mapping[Hashable, float], mean: float, floor: Floor, figure: Figure
) -> bool:
    """Whether the nulls' mean lies inside the floor."""
    if figure != "kl":
        return mean <= floor.mean_abs_delta_logprob
    paired = excess_over(floor, of_text)
    interval = intervals([paired.difference])[0]
    return not (interval.low > 0.0 if interval.is_known else paired.difference.mean > 0.0)


def adjusted(comparisons: Mapping[Key, NullComparison]) -> dict[Key, NullComparison]:
    """The same comparisons with their p-values adjusted for being made together.

    Args:
        comparisons: All that a table shows: views times groups.

    Raises:
        InvalidInputError: a p isn't from 0 to 1.
    """
    found = holm([one.p for one in comparisons.values()])
    m = len(comparisons)
    return {
        key: replace(one, p_adjusted=p_adjusted, p_smallest=min(1.0, m / (one.n + 1)), compared=m)
        for (key, one), p_adjusted in zip(comparisons.items(), found, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false one being at most x is at most x.

    The j-th smallest of m, from 0, is multiplied by m - j, is never below a smaller one's, and is
    at most 1. Valid whatever the p-values have to do with each other. SciPy 1.17 adjusts for the
    false discovery rate (``false_discovery_control``) and not for this.

    Args:
        p_values: Each from 0 to 1.

    Returns:
        The adjusted ones, in the same order.

    Raises:
        InvalidInputError: one isn't from 0 to 1.

    Source:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    known = np.asarray(p_values, dtype=np.float64)
    if not np.all((known >= 0.0) & (known <= 1.0)):
        raise InvalidInputError(f"p-values are from 0 to 1, got {known}")
    order = np.argsort(known, kind="stable")
    left = len(known) - np.arange(len(known))
    in_order = np.minimum(np.maximum.accumulate(known[order] * left), 1.0)
    found = np.empty(len(known))
    found[order] = in_order
    return [float(p) for p in found]


def _ordinal(rank: int) -> str:
    if rank <= len(_ORDINALS):
        return _ORDINALS[rank - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{'th' if 10 < rank % 100 < 14 else ending}"

"""Is a difference there at all? The floor is what arithmetic alone makes of it.

A floor is measured on reruns of the reference with noise in the last place of its numbers; here it
arrives as the positions of one rerun against another. A view is held against it text by text, since
a text that rounds much does so in both. Below the floor nothing is ever called unchanged: what is
said is how large a mean would have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forwardcache.errors import InvalidInputError
from forwardcache.statistics.figures import mean_of
from forwardcache.statistics.intervals import FEWEST_TEXTS, Interval, intervals
from forwardcache.statistics.positions import Positions
from forwardcache.statistics.resampling import SEED
from forwardcache.statistics.spread import finite, percentiles
from forwardcache.statistics.totals import Totals
from forwardcache.statistics.words import too_few

POWER = 0.8
"""How often a mean of ``would_have_seen`` would be told from rounding, if errors were normal.

In experiments with skewed ones three times in four (``benches/RESULTS.md``).
"""


@dataclass(frozen=True, slots=True)
class Floor:
    """What rounding alone makes of a difference.

    Attributes:
        kl_of: By name of a text: its mean KL in nats and its number of positions.
        mean: Mean KL between two reruns, nats a position.
        p99: 99th percentile of that KL over positions, nats.
        same_top: Share of positions with the same most likely token in both.
        mean_abs_delta_logprob: Mean of abs(difference in log-probability) of the tokens that
            follow, nats.
    """

    kl_of: Mapping[Hashable, tuple[float, float]]
    mean: float
    p99: float
    same_top: float
    mean_abs_delta_logprob: float

    @classmethod
    def of(cls, reruns: Sequence[Positions]) -> Floor:
        """The floor of pairs of reruns of one model.

        Args:
            reruns: One rerun against another, of the same texts in each pair.

        Raises:
            InvalidInputError: there is no position; a KL isn't finite; or the mean is 0 although
                the two of a pair aren't equal at every position.
        """
        joined = {
            name: np.concatenate([np.empty(0), *[getattr(pair, name) for pair in reruns]])
            for name in ("kl", "same_top")
        }
        moved = np.concatenate([np.empty(0), *[np.abs(pair.delta_logprob) for pair in reruns]])
        kl = joined["kl"]
        if not len(kl) or not np.isfinite(kl).all():
            raise InvalidInputError(
                "a floor needs a position, and finite divergences between reruns: "
                f"{len(kl)} positions, {int(np.sum(~np.isfinite(kl)))} of them not finite"
            )
        mean = mean_of(kl)
        if mean == 0.0 and (kl.any() or moved.any()):
            raise InvalidInputError(
                "the floor's mean is 0 although reruns differ, by up to "
                f"{max(np.abs(kl).max(), moved.max()):.3g} nats: rounding was not measured"
            )
        p99 = float(percentiles(kl, [99.0])[0])
        return cls(_kl_of(reruns), mean, p99, mean_of(joined["same_top"]), mean_of(moved))


def larger(floors: Sequence[Floor]) -> Floor:
    """The floor of the largest mean: where two models are compared, either one's rounding counts.

    Args:
        floors: One a model, one or more.

    Raises:
        InvalidInputError: there is none.
    """
    if not floors:
        raise InvalidInputError("no floor to choose from, need one or more")
    return max(floors, key=lambda floor: floor.mean)


def _kl_of(pairs: Sequence[Positions]) -> dict[Hashable, tuple[float, float]]:
    found: dict[Hashable, list[tuple[float, int]]] = {}
    for pair in pairs:
        for name, of_text in pair.means_by_text(pair.kl).items():
            found.setdefault(name, []).append(of_text)
    sums = {name: sum(mean * count for mean, count in each) for name, each in found.items()}
    counts = {name: sum(count for _, count in each) for name, each in found.items()}
    return {name: (sums[name] / counts[name], counts[name] / len(pairs)) for name in found}


@dataclass(frozen=True, slots=True)
class FloorVerdict:
    """Whether a view can be told from rounding, on the texts that it shares with the floor.

    Attributes:
        mean: The floor's mean KL, nats a position.
        p99: Its 99th percentile over positions, nats.
        share_above: Share of all of the view's positions with a KL above that.
        distinguishable: Whether the lower end of ``excess`` is above 0, or a divergence is
            infinite, which no rounding makes; None for fewer texts than an interval takes.
        would_have_seen: Of a view that isn't distinguishable: the mean KL, nats, that would be told
            from rounding on about three of four such sets of texts; else None.
        same_top: The floor's.
        mean_abs_delta_logprob: The floor's, nats.
        view_mean: The view's mean KL over the shared texts, nats.
        excess: Interval of the mean of view - floor, paired by text, nats a position.
    """

    mean: float
    p99: float
    share_above: float
    distinguishable: bool | None
    would_have_seen: float | None
    same_top: float
    mean_abs_delta_logprob: float
    view_mean: float
    excess: Interval

    @property
    def words(self) -> str:
        """The verdict in words; never that nothing changed."""
        if self.distinguishable is None:
            return f"not judged against rounding: {too_few(self.excess.texts, FEWEST_TEXTS)}"
        if self.distinguishable:
            return "distinguishable from rounding"
        if self.would_have_seen is None:
            return "not distinguishable from rounding on these texts"
        return (
            "not distinguishable from rounding on these texts; "
            f"a mean above {self.would_have_seen:.2g} nats would have been seen"
        )

    def as_json(self) -> dict[str, Any]:
        """By name; what is no finite number is None."""
        return {
            "mean": finite(self.mean),
            "p99": finite(self.p99),
            "share_above": finite(self.share_above),
            "distinguishable": self.distinguishable,
            "would_have_seen": finite(self.would_have_seen),
            "same_top": finite(self.same_top),
            "mean_abs_delta_logprob": finite(self.mean_abs_delta_logprob),
            "view_mean": finite(self.view_mean),
            "texts": self.excess.texts,
        }


def against_floor(view: Positions, floor: Floor, *, seed: int = SEED) -> FloorVerdict:
    """Whether ``view`` can be told from rounding.

    The mean over positions of view - floor, with each text's two means paired and weighted by its
    positions. ``would_have_seen`` is floor + (t + z)·error: the error is that of the paired mean, t
    the pivot of its lower end, and z the quantile of the normal law at ``POWER``; it takes for
    granted that a true difference adds to rounding and spreads little beyond it.

    Args:
        view: Its positions, of more texts than the floor's or as many.
        floor: Of the same texts.
        seed: Of the resampling.

    Raises:
        InvalidInputError: the floor has a negative number of positions.
    """
    from scipy import special

    found = {name: mean for name, (mean, _) in view.means_by_text(view.kl).items()}
    paired = excess_over(floor, found)
    excess = intervals([paired.difference], seed=seed)[0]
    needed = paired.difference.mean - excess.low
    needed += float(special.ndtri(POWER)) * paired.difference.standard_error
    seen = paired.floor_mean + needed
    is_above = _is_above(paired.difference, excess)
    return FloorVerdict(
        mean=floor.mean,
        p99=floor.p99,
        share_above=mean_of(view.kl > floor.p99),
        distinguishable=is_above,
        # Of one that was seen it says nothing: its texts differ by more than rounding does.
        would_have_seen=finite(seen) if is_above is False else None,
        same_top=floor.same_top,
        mean_abs_delta_logprob=floor.mean_abs_delta_logprob,
        view_mean=paired.mean,
        excess=excess,
    )


def _is_above(difference: Totals, excess: Interval) -> bool | None:
    if difference.texts < FEWEST_TEXTS:
        return None
    return excess.low > 0.0 if excess.is_known else difference.mean == math.inf


@dataclass(frozen=True, slots=True)
class Paired:
    """Means over the texts of a floor, each text weighted by its positions.

    Attributes:
        mean: Of what is held against the floor, nats a position.
        floor_mean: Of the floor over the same texts.
        difference: The totals of their difference.
    """

    mean: float
    floor_mean: float
    difference: Totals


def excess_over(floor: Floor, kl_of: Mapping[Hashable, float]) -> Paired:
    """How far mean divergences are above the floor's, paired by text.

    Args:
        floor: What rounding makes.
        kl_of: By name of a text: its mean KL, nats. Texts that the floor hasn't are left out.
    """
    found = [(mean, *floor.kl_of[name]) for name, mean in kl_of.items() if name in floor.kl_of]
    ours, floors, counts = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return Paired(
        Totals(ours * counts, counts).mean,
        Totals(floors * counts, counts).mean,
        Totals((ours - floors) * counts, counts),
    )

"""The figures of some positions of one view: all of them, a bucket or a group.

Reading order within: ``Sketch`` is everything but intervals, so that the texts are resampled once
for all views and buckets; ``figures`` puts the intervals in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.statistics.intervals import (
    Interval,
    closed,
    of_divergence,
    open_intervals,
    within_share,
)
from forwardcache.statistics.positions import Positions
from forwardcache.statistics.resampling import SEED
from forwardcache.statistics.spread import PERCENTILES, Spread, finite, spread_of
from forwardcache.statistics.totals import SAME, Float64s, Totals

_NO_INTERVAL = Interval(math.nan, math.nan, 0)


@dataclass(frozen=True, slots=True)
class DeltaP:
    """How the probability of the token that follows changed, Q - P; NaN without any position.

    Attributes:
        mean: Mean over positions.
        rms: Root of the mean square.
        percentiles: By the names of ``Spread``.
        max: The largest.
    """

    mean: float
    rms: float
    percentiles: dict[str, float]
    max: float

    def as_json(self) -> dict[str, float | None]:
        """By name; what is no finite number is None."""
        found = {"mean": self.mean, "rms": self.rms, **self.percentiles, "max": self.max}
        return {name: finite(value) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Figures:
    """What some positions come to. P is the reference, Q the view; NaN where nothing can be told.

    Attributes:
        positions: How many positions.
        texts: In how many distinct texts.
        kl: KL(P ‖ Q), nats a position.
        kl_reverse: KL(Q ‖ P), nats a position.
        js: Jensen-Shannon divergence, nats a position.
        same_top: Share of positions with the same most likely token.
        same_top_interval: Where that lies.
        top_k_agreement: Mean share of P's k most likely tokens that are among Q's.
        ppl_reference: exp(-mean log P) of the tokens that follow.
        ppl: exp(-mean log Q) of them.
        ppl_ratio: ``ppl / ppl_reference``.
        ppl_ratio_interval: Where that lies, from the paired difference of log-perplexities.
        delta_p: Change of their probability.
        correlation: Pearson's, of log P and log Q of the tokens that follow.
        mean_abs_delta_logprob: Mean of abs(log Q - log P) of them, nats.
    """

    positions: int
    texts: int
    kl: Spread
    kl_reverse: Spread
    js: Spread
    same_top: float
    same_top_interval: Interval
    top_k_agreement: float
    ppl_reference: float
    ppl: float
    ppl_ratio: float
    ppl_ratio_interval: Interval
    delta_p: DeltaP
    correlation: float
    mean_abs_delta_logprob: float

    def as_json(self) -> dict[str, Any]:
        """By field; what is no finite number is None."""
        return {
            "positions": self.positions,
            "texts": self.texts,
            "kl": self.kl.as_json(),
            "kl_reverse": self.kl_reverse.as_json(),
            "js": self.js.as_json(),
            "correlation": finite(self.correlation),
            "same_top": finite(self.same_top),
            "same_top_interval": self.same_top_interval.as_json(),
            "top_k_agreement": finite(self.top_k_agreement),
            "ppl": finite(self.ppl),
            "ppl_reference": finite(self.ppl_reference),
            "ppl_ratio": finite(self.ppl_ratio),
            "ppl_ratio_interval": self.ppl_ratio_interval.as_json(),
            "delta_p": self.delta_p.as_json(),
            "mean_abs_delta_logprob": finite(self.mean_abs_delta_logprob),
        }


@dataclass(frozen=True, slots=True)
class Sketch:
    """Figures without intervals, and what the intervals are made of.

    Attributes:
        figures: Their intervals aren't known.
        totals: Of ``kl``, ``kl_reverse``, ``js``, ``same_top`` and of log P - log Q.
        all_same: Texts all of whose positions have the same top.
        none_same: Texts none of whose positions has.
    """

    figures: Figures
    totals: list[Totals]
    all_same: int
    none_same: int


def figures(parts: Sequence[Positions], *, seed: int = SEED) -> list[Figures]:
    """The figures of each of ``parts``, their texts being resampled together.

    Args:
        parts: Any number; those over as many texts share their resamples.
        seed: Of the resampling.
    """
    return with_intervals([sketch_of(part) for part in parts], seed=seed)


def with_intervals(sketches: Sequence[Sketch], *, seed: int = SEED) -> list[Figures]:
    """The figures of sketches.

    Args:
        sketches: Any number, of one view or of several.
        seed: Of the resampling; the same positions have the same intervals, whatever else is asked
            with them.
    """
    totals = [one for sketch in sketches for one in sketch.totals]
    found = iter(open_intervals(totals, seed=seed))
    return [_completed(one, [next(found) for _ in one.totals]) for one in sketches]


def _completed(sketch: Sketch, found: Sequence[Interval]) -> Figures:
    *divergences, same_top, log_ratio = found
    kl, kl_reverse, js = (
        of_divergence(closed(one, total), total)
        for one, total in zip(divergences, sketch.totals, strict=False)
    )
    return replace(
        sketch.figures,
        kl=replace(sketch.figures.kl, interval=kl),
        kl_reverse=replace(sketch.figures.kl_reverse, interval=kl_reverse),
        js=replace(sketch.figures.js, interval=js),
        same_top_interval=within_share(
            same_top,
            share=sketch.totals[-2].mean,
            all_have=sketch.all_same,
            none_have=sketch.none_same,
        ),
        ppl_ratio_interval=closed(log_ratio, sketch.totals[-1]).mapped(exp),
    )


def sketch_of(part: Positions) -> Sketch:
    """Everything of some positions but the intervals.

    Args:
        part: The positions.
    """
    # log P - log Q, whose mean is the log of the ratio of perplexities.
    log_ratio = -part.delta_logprob
    totals = part.totals(part.kl, part.kl_reverse, part.js, part.same_top, log_ratio)
    kl, kl_reverse, js, same_top, of_ratio = totals
    present, same = (
        np.bincount(part.text[kept], minlength=len(part.names))
        for kept in (np.full(len(part), True), part.same_top)
    )
    found = Figures(
        positions=len(part),
        texts=kl.texts,
        kl=spread_of(part.kl, kl.mean, _NO_INTERVAL),
        kl_reverse=spread_of(part.kl_reverse, kl_reverse.mean, _NO_INTERVAL),
        js=spread_of(part.js, js.mean, _NO_INTERVAL),
        same_top=same_top.mean,
        same_top_interval=_NO_INTERVAL,
        top_k_agreement=mean_of(part.top_k_agreement),
        ppl_reference=exp(-mean_of(part.logprob_reference)),
        ppl=exp(-mean_of(part.logprob)),
        ppl_ratio=exp(of_ratio.mean),
        ppl_ratio_interval=_NO_INTERVAL,
        delta_p=_delta_p(part.delta_p),
        correlation=correlation(part.logprob_reference, part.logprob),
        mean_abs_delta_logprob=mean_of(np.abs(log_ratio)),
    )
    has_any = present > 0
    return Sketch(
        found,
        totals,
        all_same=int(np.sum(has_any & (same == present))),
        none_same=int(np.sum(has_any & (same == 0))),
    )


def _delta_p(values: Float64s) -> DeltaP:
    spread = spread_of(values, mean_of(values), _NO_INTERVAL)
    found = {name: getattr(spread, name) for name in PERCENTILES}
    return DeltaP(spread.mean, math.sqrt(mean_of(values**2)), found, spread.max)


def exp(value: float) -> float:
    """The exponential of ``value``; inf where no float64 is as large.

    Args:
        value: Any number, infinite and NaN too.
    """
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def mean_of(values: ArrayLike) -> float:
    """The mean in float64; NaN for no values, and for infinities of both signs.

    Args:
        values: [n].
    """
    known = np.asarray(values)
    with np.errstate(invalid="ignore"):
        return float(known.mean(dtype=np.float64)) if len(known) else math.nan


def correlation(left: ArrayLike, right: ArrayLike) -> float:
    """Pearson's correlation, from -1 to 1; NaN where one side is constant or isn't finite.

    Args:
        left: [n].
        right: [n].

    Source:
        Pearson, Note on Regression and Inheritance in the Case of Two Parents (1895).
    """
    sides = [np.asarray(each, dtype=np.float64) for each in (left, right)]
    if not len(sides[0]) or not all(np.isfinite(each).all() for each in sides):
        return math.nan
    around = [each - each.mean() for each in sides]
    norms = [float(np.linalg.norm(each)) for each in around]
    # What is left of a constant is the rounding of its mean.
    if any(norm <= SAME * np.linalg.norm(each) for norm, each in zip(norms, sides, strict=True)):
        return math.nan
    return float(np.clip(np.dot(*around) / (norms[0] * norms[1]), -1.0, 1.0))

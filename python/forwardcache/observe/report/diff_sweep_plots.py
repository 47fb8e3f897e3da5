"""The plots of a sweep: how far adapters are by the step of their run, and by strength.

Each has intervals, the band that the means of matched nulls lie in, and the floor's mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from forwardcache.observe.report.diff_plots import finish, line, short, spread
from forwardcache.observe.report.plots import INK, VIEW_COLOURS, svg
from forwardcache.statistics.result import DiffResult, ViewDifference

_MOST_BANDS = 4

Band = Mapping[float, tuple[float, float]]
"""By place on the horizontal axis: the least and the largest mean of nulls, nats."""


def by_step(result: DiffResult) -> tuple[Markup, str] | None:
    """Mean KL by step of the run, a line a strength; with how many of these are drawn.

    Args:
        result: What was found.

    Returns:
        None where no two steps were compared at one strength.
    """
    known = [one for one in result.views if one.step is not None and one.lam is not None]
    lines = _lines(known, lambda one: f"λ = {one.lam:g}", lambda one: float(one.step or 0))
    return _plot(result, lines, "step", "step of the training run", "strengths")


def by_lambda(result: DiffResult) -> tuple[Markup, str] | None:
    """Mean KL by strength, a line an adapter; with how many of these are drawn.

    Args:
        result: What was found.

    Returns:
        None where no adapter was compared at two strengths.
    """
    known = [one for one in result.views if one.lam is not None]
    lines = _lines(known, lambda one: one.adapter or "ft", lambda one: one.lam or 0.0)
    label = "λ, the factor on the adapter (base 0, ft 1)"
    return _plot(result, lines, "lambda", label, "adapters")


def _lines(views: Sequence[ViewDifference], name: Any, at: Any) -> dict[str, list[Any]]:
    """By name of a line of two points or more: its points, in order."""
    found: dict[str, list[tuple[float, ViewDifference]]] = {}
    for one in views:
        found.setdefault(name(one), []).append((at(one), one))
    return {
        each: sorted(points, key=lambda point: point[0])
        for each, points in found.items()
        if len({place for place, _ in points}) > 1
    }


def _plot(
    result: DiffResult, lines: dict[str, list[Any]], name: str, label: str, what: str
) -> tuple[Markup, str] | None:
    if not lines:
        return None
    shown = spread(list(lines))
    # More bands hide each other.
    last = len(shown) - 1
    banded = set(range(len(shown))) if len(shown) <= _MOST_BANDS else {0, last}

    def draw(axes: Axes) -> None:
        for number, each in enumerate(shown):
            points = [(at, one.summary.figures.kl.as_json()) for at, one in lines[each]]
            line(axes, points, number, each)
            if number in banded:
                _draw_band(axes, _band(lines[each]), number, each)
        if result.floor is not None and result.floor.mean > 0.0:
            axes.axhline(
                result.floor.mean, color=INK, linestyle="--", linewidth=1, label="rounding's mean"
            )
        axes.set(xlabel=label)
        finish(axes)

    few = f"Drawn are {len(shown)} of {len(lines)} {what}." if len(shown) < len(lines) else ""
    return svg(name, f"Mean KL by {label}", draw, height=3.6), few


def _band(points: Sequence[tuple[float, ViewDifference]]) -> Band:
    found: dict[float, tuple[float, float]] = {}
    for at, one in points:
        means = [mean for mean in one.null_means.values() if 0.0 < mean < math.inf]
        if means:
            found[at] = min(means), max(means)
    return found


def _draw_band(axes: Axes, band: Band, number: int, of: str) -> None:
    """Where the nulls' means are, in the colour of the line that they belong to."""
    if not band:
        return
    colour = VIEW_COLOURS[number % len(VIEW_COLOURS)]
    places = sorted(band)
    # An edge, since the means may be next to each other.
    axes.fill_between(
        places,
        [band[at][0] for at in places],
        [band[at][1] for at in places],
        facecolor=colour,
        edgecolor=colour,
        alpha=0.2,
        linewidth=1.0,
        label=short(f"nulls of {of}"),
    )

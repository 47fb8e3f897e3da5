"""The plots of a page of ``diff``: every axis of a KL is logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogFormatter, NullLocator
from numpy.typing import NDArray

from forwardcache.observe.report.diff_moved import printable
from forwardcache.observe.report.plots import INK, LINE, VIEW_COLOURS, literal, svg
from forwardcache.statistics.result import DiffResult, ViewDifference

_BINS = 60
_DECADES = 12
"""Below the largest KL; a view's smaller ones are counted in words."""

MOST_LINES = len(VIEW_COLOURS)
"""Lines of a plot that can be told apart."""

_MARKERS = "osD^vPX*<>"
_MOST_GROUPS = 20
_LONGEST_NAME = 30
_KEPT = 14
"""Characters of a longer name's beginning, and of its end."""


def histograms(result: DiffResult) -> list[tuple[str, Markup, str]]:
    """For each view: its id, how its KL is spread over positions, and what can't be drawn of it.

    Args:
        result: What was found; of many views some are drawn.
    """
    ends, chosen = _ends(result), set(drawn(result))
    return [
        (one.view, _histogram(result, one, number, ends), _not_drawn(one, ends))
        for number, one in enumerate(result.views)
        if one.view in chosen
    ]


def drawn(result: DiffResult) -> list[str]:
    """The views that plots with a line a view show: all, or of many as many as can be told apart.

    Args:
        result: What was found. Of many views those are shown that are an adapter at its full
            strength, where there are any, and of these as many, evenly spread.
    """
    views = [one.view for one in result.views]
    if len(views) <= MOST_LINES:
        return views
    whole = [one.view for one in result.views if one.lam == 1.0]
    return spread(whole or views)


def spread(names: Sequence[str]) -> list[str]:
    """At most ``MOST_LINES`` of some names, evenly spread, the first and the last among them.

    Args:
        names: In their order.
    """
    if len(names) <= MOST_LINES:
        return list(names)
    at = np.linspace(0, len(names) - 1, MOST_LINES).round().astype(int)
    return [names[each] for each in at]


def _ends(result: DiffResult) -> tuple[float, float]:
    """Whole powers of 10 between which the KL of all views is drawn, with floor and nulls."""
    views = [_positive(one.positions.kl) for one in result.views]
    means = [mean for one in result.views for mean in one.null_means.values()]
    floor = [] if result.floor is None else [result.floor.mean, result.floor.p99]
    marks = _positive(np.array([*means, *floor]))
    largest = [float(each.max()) for each in (*views, marks) if len(each)]
    if not largest:
        return -1.0, 0.0
    high = math.ceil(math.log10(max(largest)))
    least = [math.log10(each.min()) for each in views if len(each)]
    low = max(min(least, default=high), high - _DECADES)
    # Floor and nulls are in sight however far they lie below.
    return float(math.floor(min(low, high - 1, *np.log10(marks)))), float(high)


def _positive(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    return kl[(kl > 0.0) & np.isfinite(kl)]


def _histogram(
    result: DiffResult, one: ViewDifference, number: int, ends: tuple[float, float]
) -> Markup:
    counts, edges = np.histogram(np.log10(_positive(one.positions.kl)), bins=_BINS, range=ends)
    shares = 100.0 * counts / max(len(one.positions), 1)

    def draw(axes: Axes) -> None:
        axes.stairs(shares, 10.0**edges, fill=True, facecolor=(LINE, 0.35), edgecolor=LINE)
        axes.set(xscale="log", xlim=(10.0 ** ends[0], 10.0 ** ends[1]))
        axes.xaxis.set_minor_locator(NullLocator())
        _plainly(axes.xaxis)
        axes.set(xlabel="KL, nats (logarithmic)", ylabel="positions, %", ylim=(0, None))
        _mark(axes, one.summary.figures.kl.mean, "mean of the view", color=LINE)
        if means := [mean for mean in one.null_means.values() if 0.0 < mean < math.inf]:
            # An edge, since the means of the nulls may be next to each other.
            axes.axvspan(
                min(means), max(means), facecolor=INK, edgecolor=INK, alpha=0.3, linewidth=1.5,
                label=f"means of {len(one.null_means)} matched nulls",
            )  # fmt: skip
        if result.floor is not None:
            _mark(axes, result.floor.mean, "floor: mean of rounding", linestyle="--")
            _mark(axes, result.floor.p99, "floor: 99 % of rounding", linestyle=":")
        _legend(axes)

    return svg(f"kl{number}", f"How the KL of {printable(one.view)} is spread", draw, height=3.0)


def _mark(axes: Axes, at: float, label: str, *, color: str = INK, linestyle: str = "-") -> None:
    if math.isfinite(at) and at > 0.0:
        axes.axvline(at, label=label, color=color, linestyle=linestyle, linewidth=1.5)


def _legend(axes: Axes, columns: int = 2) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _not_drawn(one: ViewDifference, ends: tuple[float, float]) -> str:
    kl = one.positions.kl
    size = max(len(kl), 1)
    parts = {
        "at 0 or, by rounding, below": np.sum(kl <= 0.0),
        f"above 0 and below 1e{ends[0]:.0f} nats": np.sum((kl > 0.0) & (kl < 10.0 ** ends[0])),
        "of infinite KL": np.sum(np.isposinf(kl)),
    }
    said = [f"{words} ({count / size:.2%})" for words, count in parts.items() if count]
    return f"Not drawn: positions {', '.join(said)}." if said else ""


def by_position(views: dict[str, Any]) -> Markup:
    """Mean KL of each view by tokens read.

    Args:
        views: By id of those that are drawn: what was found of it, as JSON values.
    """

    def draw(axes: Axes) -> None:
        for number, (view, found) in enumerate(views.items()):
            points = [
                (math.sqrt(one["low"] * one["high"]), one["kl"]) for one in found["by_position"]
            ]
            line(axes, points, number, view)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(xlabel="tokens read before the predicted one (logarithmic)")
        finish(axes)

    return svg("position", "Mean KL by position", draw, height=3.2)


def by_entropy(views: dict[str, Any]) -> Markup:
    """Mean KL of each view by quarters of the run's positions in the reference's entropy.

    Args:
        views: As of ``by_position``.
    """

    def draw(axes: Axes) -> None:
        names: list[str] = []
        for number, (view, found) in enumerate(views.items()):
            shift = _shift(number, len(views))
            points = [(at + shift, one["kl"]) for at, one in enumerate(found["buckets"])]
            line(axes, points, number, view)
            names = [_range(one["low"], one["high"]) for one in found["buckets"]]
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel="entropy of the reference, nats: quarters of the positions")
        finish(axes)

    return svg("entropy", "Mean KL by the reference's entropy", draw, height=3.2)


def by_group(views: dict[str, Any]) -> Markup:
    """Mean KL of each view by group: those that the first view is farthest in.

    Args:
        views: As of ``by_position``.
    """
    first: dict[str, Any] = next((one["groups"] for one in views.values() if one["groups"]), {})
    order = sorted(first, key=lambda name: -(first[name]["kl"]["mean"] or 0.0))[:_MOST_GROUPS]

    def draw(axes: Axes) -> None:
        for number, (view, found) in enumerate(views.items()):
            groups, shift = found["groups"] or {}, _shift(number, len(views))
            points = [
                (at + shift, groups[name]["kl"]) for at, name in enumerate(order) if name in groups
            ]
            line(axes, points, number, view, flipped=True)
        axes.set_yticks(range(len(order)), [short(name) for name in order])
        axes.set_ylim(len(order) - 0.5, -0.5)
        finish(axes, flipped=True)

    height = 1.4 + 0.3 * len(order) + 0.1 * len(views)
    return svg("group", "Mean KL by group", draw, height=height)


def _shift(number: int, views: int) -> float:
    """Views side by side, so that their intervals are."""
    return 0.0 if views < 2 else 0.36 * (number / (views - 1) - 0.5)


def _range(low: float | None, high: float | None) -> str:
    return f"{low:.2g} to {high:.2g}" if low is not None and high is not None else "-"


def line(
    axes: Axes,
    points: Sequence[tuple[float, dict[str, Any]]],
    number: int,
    view: str,
    *,
    flipped: bool = False,
) -> None:
    """Means with their intervals, as far as a logarithmic axis has them.

    Args:
        axes: Where.
        points: A place on the other axis, and the ``kl`` of JSON, each.
        number: Of the line, which its colour and its marks follow from.
        view: What it is called.
        flipped: Whether the divergences are on the horizontal axis, without a line between them.
    """
    known = [(at, kl) for at, kl in points if (kl["mean"] or 0.0) > 0.0]
    if not known:
        return
    at = [one for one, _ in known]
    means = [kl["mean"] for _, kl in known]
    ends = np.array(list(_reaches(kl for _, kl in known))).T
    colour = VIEW_COLOURS[number % len(VIEW_COLOURS)]
    marker = _MARKERS[number % len(_MARKERS)]
    style: Any = {"color": colour, "marker": marker, "markersize": 5, "elinewidth": 1}
    style |= {"linewidth": 1.5, "linestyle": "none" if flipped else "-"}
    style["label"] = short(view)
    if flipped:
        axes.errorbar(means, at, xerr=ends, **style)
    else:
        axes.errorbar(at, means, yerr=ends, **style)


def _reaches(found: Iterator[dict[str, Any]]) -> Iterator[tuple[float, float]]:
    """How far each interval reaches below and above its mean; 0 for an end that isn't known."""
    for kl in found:
        low, high = kl["interval"] or (None, None)
        mean = kl["mean"]
        yield (
            0.0 if low is None else max(mean - max(low, 0.0), 0.0),
            0.0 if high is None else max(high - mean, 0.0),
        )


def finish(axes: Axes, *, flipped: bool = False) -> None:
    """A logarithmic axis of divergences, and what the lines are.

    Args:
        axes: Where.
        flipped: Whether it is the horizontal one.
    """
    label = "mean KL, nats (logarithmic)"
    if flipped:
        axes.set_xscale("log", nonpositive="mask")
        axes.set(xlabel=label)
        _plainly(axes.xaxis)
    else:
        axes.set_yscale("log", nonpositive="mask")
        axes.set(ylabel=label)
        _plainly(axes.yaxis)
    _legend(axes, columns=3)


def _plainly(axis: Axis) -> None:
    """Powers of ten as the tables write them: a formula a tick is most of a plot's time."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())


def short(name: str) -> str:
    """A name as a legend has room for: its ends, since the names of a sweep end in a step.

    Args:
        name: A view's, a group's.
    """
    text = printable(name)
    return literal(text if len(text) <= _LONGEST_NAME else f"{text[:_KEPT]}…{text[-_KEPT:]}")

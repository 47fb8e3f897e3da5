"""Plots as inline SVG that takes its colours from the page, in the light and in the dark."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for those of the page: matplotlib knows no variables.
_INK, _LINE, _FAINT = "#010203", "#040506", "#070809"
_OF_THE_PAGE = {_INK: "currentColor", _LINE: "var(--accent)", _FAINT: "var(--faint)"}
_SHADES = 4
_DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
}


def hit_rate_over_time(bins: list[dict[str, Any]]) -> Markup:
    """Hit rate, in per cent, by seconds since the first event."""
    starts = [each["from_s"] for each in bins]

    def draw(axes: Axes) -> None:
        # No line across a time without events: nothing is known of it.
        width = min((after - before for before, after in pairwise(starts)), default=0.0)
        known = [(each["from_s"], 100 * each["hit_rate"]) for each in bins]
        for run in _without_gaps(known, 1.5 * width):
            times, rates = zip(*run, strict=True)
            axes.plot(times, rates, color=_LINE, linewidth=2, marker="o" if len(run) == 1 else "")
        axes.set(xlabel="seconds since the first event", ylabel="hit rate, %", ylim=(-3, 103))

    return _svg("time", "Hit rate over time", draw)


def _without_gaps(
    points: list[tuple[float, float]], most: float
) -> Iterator[list[tuple[float, float]]]:
    """The points in runs, a new one where more than ``most`` seconds have none."""
    run: list[tuple[float, float]] = []
    for point in points:
        if run and point[0] - run[-1][0] > most:
            yield run
            run = []
        run.append(point)
    if run:
        yield run


def miss_ratio(points: list[dict[str, Any]], measured: float | None) -> Markup:
    """Miss ratio, in per cent, by entries; a dashed line where the trace itself was."""

    def draw(axes: Axes) -> None:
        sizes = [each["entries"] for each in points]
        ratios = [100 * each["miss_ratio"] for each in points]
        axes.step(sizes, ratios, where="post", color=_LINE, linewidth=2)
        if measured is not None:
            axes.axhline(100 * measured, color=_INK, linewidth=1, linestyle="--")
        axes.set(xlabel="entries", ylabel="miss ratio, %", ylim=(0, 103), xscale="log")

    return _svg("curve", "Miss ratio by size of the cache", draw)


def busy_threads(threads: list[dict[str, Any]], seconds: float) -> Markup:
    """One row a thread over ``seconds``; the darker, the busier."""

    def draw(axes: Axes) -> None:
        for at, thread in enumerate(threads):
            width = (seconds or 1.0) / len(thread["busy_s"])
            for level in range(1, _SHADES + 1):
                spans = _shaded(thread["busy_s"], width, level)
                axes.broken_barh(
                    spans, (at - 0.35, 0.7), facecolor=_LINE, alpha=level / _SHADES, linewidth=0
                )
        axes.set(xlabel="seconds since the first event", xlim=(0, seconds or 1.0))
        axes.set_yticks(range(len(threads)), [f"thread {one['thread']}" for one in threads])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")

    return _svg("threads", "When the threads were busy", draw, height=1.0 + 0.3 * len(threads))


def _shaded(busy_s: list[float], width: float, level: int) -> list[tuple[float, float]]:
    """Where a thread was as busy as ``level`` says, as starts and widths in seconds."""
    levels = (min(_SHADES, math.ceil(_SHADES * busy / width)) for busy in busy_s)
    return [(at * width, width) for at, found in enumerate(levels) if found == level]


def distances(by_view: dict[str, list[float]], measure: str) -> Markup:
    """Every prompt's distance by the share of prompts at or below it, a line a view."""

    def draw(axes: Axes) -> None:
        for at, (view, values) in enumerate(by_view.items()):
            shares = [100 * (n + 1) / len(values) for n in range(len(values))]
            colour, width = (_LINE, 2.5) if view == "ft" else (_INK, 1.2)
            style = "-" if view == "ft" else _DASHES[at % len(_DASHES)]
            (drawn,) = axes.plot(values, shares, color=colour, linewidth=width, label=view)
            drawn.set(linestyle=style, marker="o" if len(values) == 1 else "")
        least = min((min(values) for values in by_view.values() if values), default=0.0)
        axes.set(xlabel=measure, ylabel="prompts, %", ylim=(0, 103))
        if least > 0:
            axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=9, loc="best")

    return _svg("distances", "Distance from base, by prompt", draw)


def sweep(points: list[dict[str, Any]], band: dict[str, float] | None, measure: str) -> Markup:
    """Mean distance by factor on the adapter; a band where the means of null views lie."""

    def draw(axes: Axes) -> None:
        known = [point for point in points if point["mean_nats"] is not None]
        factors = [point["factor"] for point in known]
        axes.plot(
            factors, [point["mean_nats"] for point in known], color=_LINE, linewidth=2, marker="o"
        )
        if band is not None:
            # An edge, since the means of the nulls may be equal, or next to each other.
            axes.axhspan(
                band["least_nats"], band["most_nats"], facecolor=_INK, edgecolor=_INK, alpha=0.3,
                linewidth=1.5, label="null views",
            )  # fmt: skip
            axes.legend(frameon=False, fontsize=9, loc="best")
        # A divergence of null views is orders below that of an adapter.
        if all(point["mean_nats"] > 0.0 for point in known if point["view"] != "base"):
            axes.set_yscale("log", nonpositive="mask")
        axes.set(xlabel="factor on the adapter (base 0, ft 1)", ylabel=measure)

    return _svg("sweep", "Distance from base by strength of the adapter", draw)


def _svg(name: str, title: str, draw: Any, *, height: float = 2.7) -> Markup:
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        draw(figure.subplots())
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return Markup(_of_the_page(svg[svg.index("<svg") :], name, title))


def _of_the_page(svg: str, name: str, title: str) -> str:
    """``svg`` without a size of its own, with ids and colours that fit into the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for stand_in, colour in _OF_THE_PAGE.items():
        svg = svg.replace(stand_in, colour)
    head, _, rest = svg.partition(">")
    head = re.sub(r' (width|height|xmlns:xlink|version)="[^"]*"', "", head).replace(
        "<svg", f'<svg role="img" aria-labelledby="{name}-title"'
    )
    head = head + ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head}><title id="{name}-title">{escape(title)}</title>{rest}'

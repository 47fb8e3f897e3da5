"""Plots as inline SVG that takes its colours from the page, in the light and in the dark."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import pairwise
from statistics import median
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for those of the page: matplotlib knows no variables.
INK, LINE, _FAINT = "#010203", "#040506", "#070809"
VIEW_COLOURS = tuple(f"#0a0b{at:02x}" for at in range(10))
"""Colours of the lines of several views."""

_OF_THE_PAGE = {
    **{INK: "currentColor", LINE: "var(--accent)", _FAINT: "var(--faint)"},
    **{colour: f"var(--v{at})" for at, colour in enumerate(VIEW_COLOURS)},
}
_STYLES = re.compile(r'(?<= )style="([^"]*)"')
_SHADES = 4
_MOST_TICKS = 8
_LONGEST_NAME = 12
_DASHES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
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
            axes.plot(times, rates, color=LINE, linewidth=2, marker="o" if len(run) == 1 else "")
        axes.set(xlabel="seconds since the first event", ylabel="hit rate, %", ylim=(-3, 103))

    return svg("time", "Hit rate over time", draw)


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
        axes.step(sizes, ratios, where="post", color=LINE, linewidth=2)
        if measured is not None:
            axes.axhline(100 * measured, color=INK, linewidth=1, linestyle="--")
        axes.set(xlabel="entries", ylabel="miss ratio, %", ylim=(0, 103), xscale="log")

    return svg("curve", "Miss ratio by size of the cache", draw)


def busy_threads(threads: list[dict[str, Any]], seconds: float) -> Markup:
    """One row a thread over ``seconds``; the darker, the busier."""

    def draw(axes: Axes) -> None:
        for at, thread in enumerate(threads):
            width = (seconds or 1.0) / len(thread["busy_s"])
            for level in range(1, _SHADES + 1):
                spans = _shaded(thread["busy_s"], width, level)
                axes.broken_barh(
                    spans, (at - 0.35, 0.7), facecolor=LINE, alpha=level / _SHADES, linewidth=0
                )
        axes.set(xlabel="seconds since the first event", xlim=(0, seconds or 1.0))
        names = [f"{_worker_of(one)}thread {one['thread']}" for one in threads]
        axes.set_yticks(range(len(threads)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")

    return svg("threads", "When the threads were busy", draw, height=1.0 + 0.3 * len(threads))


def _worker_of(thread: dict[str, Any]) -> str:
    # The end of a long name tells it apart.
    name = thread.get("worker")
    return "" if name is None else f"{literal(name[-_LONGEST_NAME:])}, "


def workers(rows: list[dict[str, Any]]) -> Markup:
    """Seconds that each worker computed, in their order; a dashed line at the median."""

    def draw(axes: Axes) -> None:
        seconds = [row["miss_s"] or 0.0 for row in rows]
        # One shape: with a thousand workers a bar each would be most of the page.
        axes.stairs(seconds, [at - 0.5 for at in range(len(rows) + 1)], fill=True, color=LINE)
        axes.axhline(median(seconds), color=INK, linewidth=1, linestyle="--")
        at = sorted({round(n * (len(rows) - 1) / _MOST_TICKS) for n in range(_MOST_TICKS + 1)})
        axes.set_xticks(at, [literal(str(rows[n]["worker"])[-_LONGEST_NAME:]) for n in at])
        axes.set(xlabel="worker", ylabel="seconds computing", ylim=(0, None))
        axes.grid(visible=False, axis="x")

    return svg("workers", "Seconds that each worker computed", draw)


def _shaded(busy_s: list[float], width: float, level: int) -> list[tuple[float, float]]:
    """Where a thread was as busy as ``level`` says, as starts and widths in seconds."""
    levels = (min(_SHADES, math.ceil(_SHADES * busy / width)) for busy in busy_s)
    return [(at * width, width) for at, found in enumerate(levels) if found == level]


def distances(by_view: dict[str, list[float]], measure: str) -> Markup:
    """Every prompt's distance by the share of prompts at or below it, a line a view."""

    def draw(axes: Axes) -> None:
        for at, (view, values) in enumerate(by_view.items()):
            shares = [100 * (n + 1) / len(values) for n in range(len(values))]
            colour, width = (LINE, 2.5) if view.partition(":")[0] == "ft" else (INK, 1.2)
            style = "-" if view == "ft" else _DASHES[at % len(_DASHES)]
            (drawn,) = axes.plot(values, shares, color=colour, linewidth=width, label=literal(view))
            drawn.set(linestyle=style, marker="o" if len(values) == 1 else "")
        least = min((min(values) for values in by_view.values() if values), default=0.0)
        axes.set(xlabel=measure, ylabel="prompts, %", ylim=(0, 103))
        if least > 0:
            axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=9, loc="best")

    return svg("distances", "Distance from base, by prompt", draw)


def sweep(points: list[dict[str, Any]], band: dict[str, float] | None, measure: str) -> Markup:
    """Mean distance by factor on the adapter; a band where the means of null views lie."""

    def draw(axes: Axes) -> None:
        known = [point for point in points if point["mean_nats"] is not None]
        factors = [point["factor"] for point in known]
        axes.plot(
            factors, [point["mean_nats"] for point in known], color=LINE, linewidth=2, marker="o"
        )
        if band is not None:
            # An edge, since the means of the nulls may be equal, or next to each other.
            axes.axhspan(
                band["least_nats"], band["most_nats"], facecolor=INK, edgecolor=INK, alpha=0.3,
                linewidth=1.5, label="null views",
            )  # fmt: skip
            axes.legend(frameon=False, fontsize=9, loc="best")
        # A divergence of null views is orders below that of an adapter.
        if all(point["mean_nats"] > 0.0 for point in known if point["view"] != "base"):
            axes.set_yscale("log", nonpositive="mask")
        axes.set(xlabel="factor on the adapter (base 0, ft 1)", ylabel=measure)

    return svg("sweep", "Distance from base by strength of the adapter", draw)


def literal(name: str) -> str:
    """A name as matplotlib draws it letter by letter: none begins a formula, or hides a line.

    Args:
        name: What a user called something.
    """
    text = name.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def svg(name: str, title: str, draw: Callable[[Axes], None], *, height: float = 2.7) -> Markup:
    """A plot as SVG.

    Args:
        name: Of this plot alone in the page: letters and digits.
        title: What it shows, for who can't see it.
        draw: Draws it.
        height: Of a plot that is 5.6 wide.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        # A letter that this font hasn't is in the reader's.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(5.6, height), layout="constrained")
        draw(figure.subplots())
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return Markup(_of_the_page(text[text.index("<svg") :], name, title))


def _of_the_page(text: str, name: str, title: str) -> str:
    """``text`` without a size of its own, with ids and colours that fit into the page."""
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Names of parts that nothing refers to, and turns by nothing.
    text = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*\)"', "", text)
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(r'(?<= )(?:d|x|y|transform|width|height)="[^"]*"', _short_numbers, text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for stand_in, colour in _OF_THE_PAGE.items():
        text = text.replace(stand_in, colour)
    text = _with_classes(text, name)
    head, _, rest = text.partition(">")
    head = re.sub(r' (width|height|xmlns:xlink|version)="[^"]*"', "", head).replace(
        "<svg", f'<svg role="img" aria-labelledby="{name}-title"'
    )
    head = head + ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head}><title id="{name}-title">{escape(title)}</title>{rest}'


def _short_numbers(attribute: re.Match[str]) -> str:
    """An attribute with its coordinates to a hundredth, in one line."""
    rounded = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}", attribute[0])
    return re.sub(r"\s+", " ", rounded)


def _with_classes(text: str, name: str) -> str:
    """Styles that stand more than once as classes, which are a third of the size."""
    often = [style for style, count in Counter(_STYLES.findall(text)).items() if count > 1]
    class_of = {style: f"{name}-{number}" for number, style in enumerate(often)}
    rules = "".join(f".{each}{{{style}}}" for style, each in class_of.items())

    def classed(found: re.Match[str]) -> str:
        known = class_of.get(found[1])
        return found[0] if known is None else f'class="{known}"'

    return _STYLES.sub(classed, text).replace("</style>", f"{rules}</style>", 1)

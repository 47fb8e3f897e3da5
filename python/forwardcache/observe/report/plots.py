"""Plots as inline SVG that takes its colours from the page, in the light and in the dark."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for those of the page: matplotlib knows no variables.
_INK, _LINE, _FAINT = "#010203", "#040506", "#070809"
_OF_THE_PAGE = {_INK: "currentColor", _LINE: "var(--accent)", _FAINT: "var(--faint)"}
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

    def draw(axes: Axes) -> None:
        times = [each["from_s"] for each in bins]
        axes.plot(times, [100 * each["hit_rate"] for each in bins], color=_LINE, linewidth=2)
        axes.set(xlabel="seconds since the first event", ylabel="hit rate, %", ylim=(0, 103))

    return _svg("time", "Hit rate over time", draw)


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


def _svg(name: str, title: str, draw: Any) -> Markup:
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.6, 2.7), layout="constrained")
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

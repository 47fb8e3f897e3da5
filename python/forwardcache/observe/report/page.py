"""The page: one file, nothing loaded, every text escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from forwardcache.observe.report import plots

_UNKNOWN = "-"


def report_page(figures: dict[str, Any]) -> str:
    """HTML of ``figures``, which :func:`~forwardcache.observe.report.report_figures` gave."""
    environment = Environment(
        loader=PackageLoader("forwardcache.observe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = _shown
    rate = figures["total"]["hit_rate"]
    points = figures["curve"]["points"]
    return environment.get_template("page.html.jinja").render(
        **figures,
        time_plot=plots.hit_rate_over_time(figures["over_time"]) if figures["over_time"] else "",
        curve_plot=plots.miss_ratio(points, None if rate is None else 1 - rate) if points else "",
    )


def _shown(value: Any, name: str = "") -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "hit" if value else "miss"
    if name.endswith(("_rate", "_ratio")):
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)

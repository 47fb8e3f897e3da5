"""The page: one file, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwardcache.extras import extra_named

with extra_named("a report's page"):
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from forwardcache.observe.report import plots
from forwardcache.observe.report.diff_moved import printable

_UNKNOWN = "-"
# Numbers that count nothing.
_NAMES = frozenset({"id", "line", "token_id", "batch", "thread"})


def report_page(trace: dict[str, Any] | None, scores: dict[str, Any] | None = None) -> str:
    """HTML of a report.

    Args:
        trace: What :func:`~forwardcache.observe.report.report_figures` gave, if anything.
        scores: What :func:`~forwardcache.observe.report.scores.score_figures` gave, if anything.
    """
    parts: dict[str, Any] = {"trace": trace, "scores": scores}
    if trace is not None:
        parts |= _trace_parts(trace)
    if scores is not None:
        parts |= _score_parts(scores)
    return rendered("page.html.jinja", title="forwardcache report", **parts)


def compare_page(figures: dict[str, Any]) -> str:
    """HTML of what :func:`~forwardcache.observe.report.compare.compare_figures` gave."""
    return rendered("compare.html.jinja", title="forwardcache report: two runs", **figures)


def _trace_parts(trace: dict[str, Any]) -> dict[str, Any]:
    bins, threads = trace["over_time"], trace["threads"]
    points = trace["curve"]["points"]
    seconds = trace["total"]["last_ts"] - trace["total"]["first_ts"] if threads else 0.0
    return {
        "skipped": [{"reason": name, "lines": count} for name, count in trace["skipped"].items()],
        "time_plot": plots.hit_rate_over_time(bins) if bins else "",
        "threads_plot": plots.busy_threads(threads, seconds) if threads else "",
        "workers_plot": plots.workers(trace["workers"]) if "workers" in trace else "",
        "curve_plot": (
            plots.miss_ratio(points, _missed(trace["total"]))
            if trace["curve"]["entries_enough"]
            else ""
        ),
    }


def _missed(total: dict[str, Any]) -> float | None:
    """The cache's own miss ratio: it didn't have what came from the store, either."""
    answered = total["hits"] + total["misses"]
    return (total["misses"] + total["from_store"]) / answered if answered else None


def _score_parts(scores: dict[str, Any]) -> dict[str, Any]:
    by_view, measure = scores["sorted_nats"], scores["measure"]
    return {
        "prompts_plot": plots.distances(by_view, measure) if by_view else "",
        "sweep_plot": (
            plots.sweep(scores["sweep"], scores["null_band"], measure) if scores["sweep"] else ""
        ),
    }


def rendered(template: str, **parts: Any) -> str:
    """HTML of a template of this package, in which every text is escaped.

    Args:
        template: Its file's name.
        **parts: What it shows.
    """
    environment = Environment(
        loader=PackageLoader("forwardcache.observe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": _shown,
        "scalars": _scalars,
        "are_numbers": _are_numbers,
        "printable": printable,
    }
    return environment.get_template(template).render(**parts)


def _scalars(row: dict[str, Any]) -> list[str]:
    """The columns that a table has: a list of numbers is drawn instead."""
    return [name for name, value in row.items() if not isinstance(value, list)]


def _are_numbers(rows: Sequence[dict[str, Any]], name: str) -> bool:
    known = [row[name] for row in rows if row[name] is not None]
    return bool(known) and all(_is_number(value) for value in known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any, name: str = "") -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "hit" if value else "miss"
    if name.endswith(("_rate", "_ratio")):
        return f"{value:.1%}"
    if isinstance(value, int):
        return str(value) if name in _NAMES else f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"

"""The page of ``forwardcache diff``: one file, nothing loaded, every text escaped.

Its numbers are read out of the very JSON that ``--format json`` prints, which it also carries; the
histograms alone are drawn from the positions.
"""

from __future__ import annotations

import json
import math
from typing import Any

from forwardcache.extras import extra_named
from forwardcache.observe.report.diff_moved import moved_of, thresholds
from forwardcache.observe.report.diff_tables import (
    MOST_GROUPS,
    chain_of,
    groups_of,
    over_texts,
    over_views,
    percentiles_of,
)
from forwardcache.observe.report.facts import fact_rows
from forwardcache.statistics.result import DiffResult
from forwardcache.statistics.sentences import answers
from forwardcache.statistics.sweep import answers_of_all

with extra_named("a report's page"):
    from markupsafe import Markup

    from forwardcache.observe.report import diff_plots, diff_sweep_plots
    from forwardcache.observe.report.page import rendered


MOST_BYTES = 1_000_000
"""Size above which a page shows fewer of the most moved positions."""

_FEWEST_MOVED = 5


def diff_page(result: DiffResult) -> str:
    """HTML of what ``forwardcache diff`` found.

    Args:
        result: The result. Of more than ``MOST_GROUPS`` groups a view's farthest are shown, and
            carried in the page's JSON. A page beyond ``MOST_BYTES`` shows fewer of the most moved
            positions.
    """
    said, left_out = _carried(result)
    parts = _parts(result, said) | {"left_out": left_out}
    most = max((len(one.moved) for one in result.views), default=0)
    while True:
        page = rendered("diff.html.jinja", views=_views(result, said, most), **parts)
        if len(page.encode()) <= MOST_BYTES or most <= _FEWEST_MOVED:
            return page
        most = max(4 * most // 5, _FEWEST_MOVED)


def _parts(result: DiffResult, said: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of all views together."""
    has_groups = any(one["groups"] for one in said["views"].values())
    drawn = {name: said["views"][name] for name in diff_plots.drawn(result)}
    return {
        "title": "forwardcache diff",
        "result": result,
        **over_views(said),
        "chain": chain_of(said),
        "over": _over(result),
        "compared": max((one.nulls.compared for one in result.views if one.nulls), default=0),
        "histograms": diff_plots.histograms(result),
        "answers": answers_of_all(result.views) if result.is_sweep else (),
        "step_plot": diff_sweep_plots.by_step(result),
        "lambda_plot": diff_sweep_plots.by_lambda(result),
        "drawn": len(drawn),
        "position_plot": diff_plots.by_position(drawn),
        "entropy_plot": diff_plots.by_entropy(drawn),
        "group_plot": diff_plots.by_group(drawn) if has_groups else "",
        "has_groups": has_groups,
        "facts": fact_rows(result.facts),
        "json": _embedded(said),
    }


def _views(result: DiffResult, said: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """What the template shows of each view."""
    return [
        {
            "name": one.view,
            "answers": answers(one),
            "outcomes": one.outcomes,
            "percentiles": percentiles_of(said, one.view),
            "by_position": over_texts(said, one.view, "by_position"),
            "buckets": over_texts(said, one.view, "buckets"),
            "groups": groups_of(said, one.view),
            "moved": moved_of(one, result.reference, most),
            "colours": thresholds(one),
        }
        for one in result.views
    ]


def _carried(result: DiffResult) -> tuple[dict[str, Any], int]:
    """The result as JSON values, and how many groups of a view at most were too many for a page."""
    said = result.as_json()
    left_out = 0
    for view in said["views"].values():
        groups = view["groups"] or {}
        if len(groups) > MOST_GROUPS:
            farthest = sorted(groups, key=lambda name: _size(groups[name]), reverse=True)
            kept = set(farthest[:MOST_GROUPS])
            view["groups"] = {name: one for name, one in groups.items() if name in kept}
            left_out = max(left_out, len(groups) - MOST_GROUPS)
    return said, left_out


def _size(figures: dict[str, Any]) -> float:
    """A group's mean KL, nats; JSON has None for an infinite one, and for no position."""
    mean = figures["kl"]["mean"]
    if mean is None:
        return math.inf if figures["positions"] else -math.inf
    return float(mean)


def _embedded(said: dict[str, Any]) -> Markup:
    """JSON that may stand in a page's ``script``: nothing in it begins a tag."""
    text = json.dumps(said, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _over(result: DiffResult) -> str:
    """What the intervals are over, as a sentence."""
    interval = result.views[0].summary.figures.kl.interval if result.views else None
    if interval is None or not interval.is_known:
        why = f"{interval}".removeprefix("no interval: ")
        return f"There are no intervals: {why}." if interval is not None else ""
    rough = ", and rough, of fewer than 100" if interval.is_rough else ""
    return (
        f"Intervals are where a figure lies with 95 % confidence, over {interval.texts:,} distinct "
        f"texts{rough}; each is for its own figure, not for all at once."
    )

"""One view's figures as the JSON object of the command line, its names and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from forwardcache.statistics.bounds import Outcome
from forwardcache.statistics.floor import FloorVerdict
from forwardcache.statistics.nulls import NullComparison
from forwardcache.statistics.summary import Summary


def view_as_json(
    summary: Summary,
    *,
    floor: FloorVerdict | None = None,
    nulls: NullComparison | None = None,
    group_nulls: Mapping[str, NullComparison] | None = None,
    visible_from_lambda: float | None = None,
    outcomes: Sequence[Outcome] = (),
) -> dict[str, Any]:
    """One view as JSON values: what wasn't asked for, and what is no finite number, is None.

    Args:
        summary: What its positions come to.
        floor: Its verdict against rounding.
        nulls: Its place among matched nulls.
        group_nulls: By group: its place among matched nulls there.
        visible_from_lambda: The smallest scale of the adapter that is distinguishable.
        outcomes: What each bound came to; none without a bound.
    """
    of_group = group_nulls or {}
    groups = {
        group: {**figures.as_json(), "nulls": _or_none(of_group.get(group))}
        for group, figures in summary.groups.items()
    }
    return {
        **summary.figures.as_json(),
        "left_out": summary.left_out,
        "buckets": [bucket.as_json() for bucket in summary.buckets],
        "by_position": [bucket.as_json() for bucket in summary.by_position],
        "floor": _or_none(floor),
        "nulls": _or_none(nulls),
        "visible_from_lambda": visible_from_lambda,
        "groups": groups or None,
        "outcomes": [asdict(one) for one in outcomes],
    }


def _or_none(found: FloorVerdict | NullComparison | None) -> dict[str, Any] | None:
    return None if found is None else found.as_json()

"""The tables of a page of ``diff``: which values of its JSON stand where, and how they look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forwardcache.statistics.spread import PERCENTILES

MOST_GROUPS = 50
"""Groups of a view that a page shows."""

_SHARES = frozenset({"same_top", "same_top_interval", "top_k_agreement", "share_above"})
_SPREADS = ("kl", "kl_reverse", "js", "delta_p")

_FIGURES = {
    "kl.mean": "KL, mean",
    "kl.interval": "its interval",
    "kl.median": "median",
    "kl.p99": "99 %",
    "kl.max": "largest",
    "same_top": "same top",
    "ppl_ratio": "perplexity ratio",
}
_MORE = {
    "positions": "positions",
    "left_out": "left out",
    "same_top_interval": "same top, interval",
    "ppl_ratio_interval": "perplexity ratio, interval",
    "ppl": "perplexity",
    "ppl_reference": "of the reference",
    "delta_p.rms": "Δp, rms",
    "kl_reverse.mean": "reverse KL",
    "js.mean": "JS",
    "top_k_agreement": "top 5 shared",
    "correlation": "correlation",
    "mean_abs_delta_logprob": "mean |Δ log p|",
}
_FLOOR = {
    "floor.view_mean": "view, mean",
    "floor.mean": "floor, mean",
    "floor.p99": "floor, 99 %",
    "floor.distinguishable": "distinguishable",
    "floor.would_have_seen": "seen from",
    "floor.share_above": "above 99 %",
    "visible_from_lambda": "visible from λ",
    "floor.same_top": "floor, same top",
    "floor.mean_abs_delta_logprob": "floor, mean |Δ log p|",
    "floor.texts": "texts",
}
_NULLS = {
    "nulls.value": "view, mean",
    "nulls.mean": "nulls, mean",
    "nulls.max": "largest",
    "nulls.n": "nulls",
    "nulls.rank": "rank",
    "nulls.ratio_to_mean": "times their mean",
    "nulls.p_adjusted": "p, Holm",
    "nulls.p_smallest": "smallest p",
    "nulls.sd": "deviation",
}
_CHAIN = {
    "against_first.kl.mean": "KL from the first, mean",
    "against_first.kl.interval": "its interval",
    "against_first.same_top": "same top",
    "against_neighbour.kl.mean": "KL from the one before, mean",
    "against_neighbour.kl.interval": "its interval",
    "against_neighbour.same_top": "same top",
}
_PARTS = {"positions": "positions", "texts": "texts", **_FIGURES}


@dataclass(frozen=True, slots=True)
class Table:
    """Some values of the JSON.

    Attributes:
        at: Where in the JSON they are, as a list of keys in JSON.
        caption: What they are.
        head: What a row's name is.
        columns: By key of a value below a row: its words.
        rows: Key of each row, as JSON, its name, and its values as they are shown.
        is_flipped: Whether a column's key comes before a row's.
    """

    at: str
    caption: str
    head: str
    columns: Mapping[str, str]
    rows: Sequence[tuple[str, str, Sequence[str]]]
    is_flipped: bool = False


def over_views(said: dict[str, Any]) -> dict[str, Table]:
    """The tables that have a row a view, by their names in the template.

    Args:
        said: The result as JSON values.
    """
    views = said["views"]
    names = {view: view for view in views}
    made = {
        "figures": ("Divergence in nats a position, by view", _FIGURES),
        "more": ("More figures, by view", _MORE),
        "floor": ("Against rounding: KL in nats a position", _FLOOR),
        "nulls": ("Among matched nulls: mean KL in nats a position", _NULLS),
    }
    return {
        name: _table(views, ["views"], caption, head="view", columns=columns, names=names)
        for name, (caption, columns) in made.items()
    }


def over_texts(said: dict[str, Any], view: str, part: str) -> Table:
    """A view's figures by tokens read (``by_position``), or by the reference's entropy.

    Args:
        said: The result as JSON values.
        view: Its id.
        part: ``by_position`` or ``buckets``.
    """
    found = said["views"][view][part]
    unit = "tokens read" if part == "by_position" else "entropy, nats"
    names = {
        number: f"{shown(one['low'])} to {shown(one['high'])}" for number, one in enumerate(found)
    }
    return _table(found, ["views", view, part], view, head=unit, columns=_PARTS, names=names)


def groups_of(said: dict[str, Any], view: str) -> Table | None:
    """A view's figures by group; None without groups.

    Args:
        said: The result as JSON values.
        view: Its id.
    """
    groups = said["views"][view]["groups"]
    if not groups:
        return None
    has_nulls = any(one["nulls"] for one in groups.values())
    placed = {"nulls.rank": "rank among nulls", "nulls.p_adjusted": "p, Holm"} if has_nulls else {}
    return _table(
        groups,
        ["views", view, "groups"],
        view,
        head="group",
        columns=_PARTS | placed,
        names={group: group for group in groups},
    )


def chain_of(said: dict[str, Any]) -> Table | None:
    """Each stage against the first and against the one before it; None without a chain.

    Args:
        said: The result as JSON values.
    """
    stages = said["chain"]
    if not stages:
        return None
    names = {
        number: f"{stage['view']}, behind {stage['neighbour']}"
        for number, stage in enumerate(stages)
    }
    caption = f"Stages behind {said['reference']}, nats a position"
    return _table(stages, ["chain"], caption, head="stage", columns=_CHAIN, names=names)


def percentiles_of(said: dict[str, Any], view: str) -> Table:
    """How all divergences of a view are spread, a row a percentile.

    Args:
        said: The result as JSON values.
        view: Its id.
    """
    words = {name: f"{percent:g} %" for name, percent in PERCENTILES.items()}
    names = {"mean": "mean", **words, "max": "largest"}
    heads = dict(zip(_SPREADS, ("KL", "reverse KL", "JS", "Δp"), strict=True))
    found = {
        name: {column: said["views"][view][column][name] for column in heads} for name in names
    }
    return _table(
        found,
        ["views", view],
        view,
        head="over positions",
        columns=heads,
        names=names,
        is_flipped=True,
    )


def _table(
    found: Any,
    at: Sequence[str],
    caption: str,
    *,
    head: str,
    columns: Mapping[str, str],
    names: Mapping[Any, str],
    is_flipped: bool = False,
) -> Table:
    rows = [
        (json.dumps(key), name, [_cell(_value(found[key], column), column) for column in columns])
        for key, name in names.items()
    ]
    return Table(json.dumps(list(at)), caption, head, columns, rows, is_flipped)


def _value(row: Any, column: str) -> Any:
    for key in column.split("."):
        row = None if row is None else row[key]
    return row


def _cell(value: Any, column: str) -> str:
    return shown(value, is_share=column.rpartition(".")[2] in _SHARES)


def shown(value: Any, *, is_share: bool = False) -> str:
    """A value of the JSON, to four digits.

    Args:
        value: A number, an interval, a truth or None.
        is_share: Whether it is shown in per cent.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " to ".join(shown(end, is_share=is_share) for end in value)
    if is_share:
        return f"{value:.2%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"

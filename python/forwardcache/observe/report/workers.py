"""What a report says about workers: each alone, and what they did for each other."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from forwardcache.observe.report.rows import Figures, as_json, rows_of

if TYPE_CHECKING:
    from forwardcache.observe.report.trace_parts import Parts

_MOST_WORKERS = 1_000
_LOTS = 16
_OF_EACH = ("events", "hits", "hit_rate", "misses", "failed", "from_store")
_SPENT = ("miss_s", "hit_s", "wait_s", "lost", "skipped")


def worker_figures(parts: Parts) -> Figures:
    """The figures of each worker, and of what one computed and another asked for.

    A key names a value within one process only. Across workers that is told by what was asked for:
    view, op, prompt hash and ``top_k``. It tells nothing apart that only the key has, such as two
    models under one view's name.

    Returns:
        ``workers``: a row each, in their order. ``over_workers``: what these come to.
        ``warmed_workers``: values that a worker had from a store after another one, or itself in an
        earlier session, had computed them, by who first did; None: nobody here, or only later by
        their clocks. ``saved_s`` is the time of that computation less the lookup.
    """
    lots = [_asked_in(parts, lot) for lot in range(_LOTS)]
    pairs = pl.concat([lot.pairs for lot in lots])
    pairs = pairs.group_by("computed_by", "asked_by", maintain_order=True).agg(pl.all().sum())
    begin = parts.total()["first_ts"] if parts.totals else None
    for_each = {
        "from_others": _counts(pairs, "asked_by"),
        "for_others": _counts(pairs, "computed_by"),
    }
    rows = [_row(at, total, begin, for_each) for at, total in enumerate(parts.totals)]
    computing = [row["miss_s"] or 0.0 for row in rows]
    warmed = _between_two(pairs)
    over = {
        "workers": len(rows),
        "workers_with_lost_events": sum(row["lost"] > 0 for row in rows),
        "least_miss_s": min(computing, default=None),
        "median_miss_s": median(computing) if computing else None,
        "most_miss_s": max(computing, default=None),
        "from_other_workers": int(warmed["values"].sum()),
        "from_other_workers_saved_s": float(warmed["saved_s"].sum()),
        "computed_by_several": sum(lot.by_several for lot in lots),
        "computed_again_s": sum(lot.again_s for lot in lots),
    }
    return {
        "workers": rows[:_MOST_WORKERS],
        "over_workers": as_json(over),
        "warmed_workers": rows_of(_named(pairs, parts), "values"),
    }


def _row(
    at: int, total: Figures, begin: float | None, for_each: dict[str, dict[int, int]]
) -> Figures:
    first, last = total["first_ts"], total["last_ts"]
    return {
        "worker": total["worker"],
        **{name: total[name] for name in _OF_EACH},
        **{name: counts.get(at, 0) for name, counts in for_each.items()},
        **{name: total[name] for name in _SPENT},
        "from_s": None if begin is None or first is None else first - begin,
        "to_s": None if begin is None or last is None else last - begin,
    }


class _Lot(NamedTuple):
    """What was asked for in one of the lots into which all values are dealt out.

    Attributes:
        pairs: Values from the store by who had computed and who asked, as numbers of parts.
        by_several: Values that several workers computed.
        again_s: Seconds that all but the first spent on these.
    """

    pairs: pl.DataFrame
    by_several: int
    again_s: float


def _asked_in(parts: Parts, lot: int) -> _Lot:
    columns = ("value", "worker", "ts", "wall_ms", "from_store")
    # No lot has a value of which the number isn't known.
    own = pl.col("value") % _LOTS == lot
    asked = pl.concat([part.lazy().filter(own).select(columns).collect() for part in parts.events])
    computed = _computed(asked)
    again = computed.filter(pl.col("workers") > 1)["again_s"]
    return _Lot(_pairs(computed, asked), len(again), float(again.sum()))


def _computed(asked: pl.DataFrame) -> pl.DataFrame:
    """Each value that was computed: by whom first, and what others spent on it after that."""
    each = asked.lazy().filter(~pl.col("from_store")).sort("value", "ts", nulls_last=True)
    by_worker = each.group_by("value", "worker", maintain_order=True).agg(
        ts=pl.col("ts").first(), wall_ms=pl.col("wall_ms").first()
    )
    first = by_worker.group_by("value", maintain_order=True).agg(
        computed_by=pl.col("worker").first(),
        computed_ts=pl.col("ts").first(),
        took_ms=pl.col("wall_ms").first(),
        workers=pl.len(),
        again_s=pl.col("wall_ms").slice(1).sum() / 1000,
    )
    return first.collect()


def _pairs(computed: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    found = asked.lazy().filter("from_store").select("value", "ts", "wall_ms", asked_by="worker")
    joined = found.join(computed.lazy(), on="value", how="left", maintain_order="left")
    before = (pl.col("computed_ts") <= pl.col("ts")).fill_null(False)
    named = joined.with_columns(
        computed_by=pl.when(before).then("computed_by"),
        saved_ms=pl.when(before).then(pl.col("took_ms") - pl.col("wall_ms")),
    )
    pairs = named.group_by("computed_by", "asked_by", maintain_order=True)
    return pairs.agg(values=pl.len(), saved_s=pl.col("saved_ms").sum() / 1000).collect()


def _counts(pairs: pl.DataFrame, column: str) -> dict[int, int]:
    each = _between_two(pairs).group_by(column).agg(pl.col("values").sum())
    counts: dict[int, Any] = dict(each.iter_rows())
    return counts


def _between_two(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.filter(pl.col("computed_by") != pl.col("asked_by"))


def _named(pairs: pl.DataFrame, parts: Parts) -> pl.DataFrame:
    names = pl.Series([one["worker"] for one in parts.totals], dtype=pl.String)
    return pairs.select(
        names.gather(pairs["computed_by"]).alias("computed_by"),
        names.gather(pairs["asked_by"]).alias("asked_by"),
        "values",
        "saved_s",
    )

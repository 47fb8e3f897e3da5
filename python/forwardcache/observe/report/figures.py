"""The numbers of a report, as JSON values: the page shows these and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import shorten

import polars as pl

from forwardcache.observe.curve import curve_in_entries
from forwardcache.observe.reader import TraceReader
from forwardcache.observe.report.rows import Figures, first_rows, rows_of
from forwardcache.observe.report.trace_parts import SLOWEST, Parts
from forwardcache.observe.report.workers import worker_figures
from forwardcache.observe.workers import WorkerEvents

_TIME_BINS = 60
_CURVE_POINTS = 120
_MOST_THREADS = 16
_MOST_CHARACTERS = 200
_ROUNDING = 1e-9
_LOTS = 16


def report_figures(reader: TraceReader, texts: Mapping[str, str] | None = None) -> Figures:
    """What a report says about the events of ``reader``, which is read to its end.

    Args:
        reader: The events.
        texts: Prompts by their ``prompt_hash``, which the slowest computations are shown with.

    Returns:
        JSON values only; seconds end in ``_s``, milliseconds in ``_ms``, shares lie between 0 and
        1, and what is unknown is None.
    """
    parts = Parts(of_workers=False)
    parts.add(iter(reader), reader, None)
    return _figures(parts, texts)


def workers_figures(
    workers: Iterable[WorkerEvents], texts: Mapping[str, str] | None = None
) -> Figures:
    """What a report says about the events of several workers, and about each of them.

    They are read one after the other. Memory grows with the largest trace, and by some forty bytes
    with each event.

    Args:
        workers: What ``read_workers`` gives.
        texts: As of :func:`report_figures`.

    Returns:
        What :func:`report_figures` would say about the same events in one file, where the sessions
        keep their names; rows about one worker have its name; and ``workers`` and ``over_workers``.

    Raises:
        OSError: a file can't be opened or read.
        SameEventsError: two files have the same events.
    """
    parts = Parts(of_workers=True)
    for one in workers:
        parts.add(one.events, one.reader, one.worker)
    return _figures(parts, texts) | worker_figures(parts)


def _figures(parts: Parts, texts: Mapping[str, str] | None) -> Figures:
    events = pl.concat(parts.events)
    slowest_batches = first_rows(parts.table("slowest_batches"), "batch_s", SLOWEST)
    from_store = parts.table("from_store", by=("probe", "view_id", "op"))
    total = parts.total()
    figures: Figures = {
        "total": total,
        "lost": parts.lost,
        "skipped": dict(parts.skipped),
        "over_time": _over_time(events),
        "threads": _threads(events, parts),
        "latency": _latency(events, parts),
        "batches": rows_of(parts.table("batches", by=("size",)), "size", descending=False),
        "slowest_batches": rows_of(slowest_batches, "batch_s"),
        "slowest": _slowest(parts, texts),
        "warmed": rows_of(parts.table("warmed", by=("computed_by", "asked_by")), "hits"),
        "from_store": rows_of(from_store, "values"),
        "errors": rows_of(parts.table("errors", by=("error",)), "events"),
        "curve": _curve(parts),
    }
    return {"verdict": _verdict(figures), **figures}


def _threads(events: pl.DataFrame, parts: Parts) -> list[Figures]:
    """What each thread did, and the seconds that it was busy in each part of the time."""
    width = _bin_width(events)
    known = events.lazy().filter(pl.col("thread").is_not_null(), pl.col("ts").is_not_null())
    each = (
        known.group_by("thread", at=_bin(events, width), maintain_order=True)
        .agg(events=pl.len(), hits=pl.col("hit").sum(), wall_s=pl.col("wall_ms").sum() / 1e3)
        .sort("thread", "at")
        .group_by("thread", maintain_order=True)
        .agg(pl.col("events", "hits", "wall_s").sum(), pl.col("at"), busy_s=pl.col("wall_s"))
        .collect()
    )
    names = pl.DataFrame(
        [*parts.threads],
        schema={"part": pl.Int64, "run": pl.String, "thread": pl.Int64},
        orient="row",
    )
    of_worker = pl.Series("worker", [one["worker"] for one in parts.totals], pl.String)
    named = names.select(of_worker.gather(names["part"]), "run", "thread")
    if not parts.of_workers:
        named = named.drop("worker")
    rows = named[each["thread"]].hstack(each.drop("thread"))
    found = rows_of(rows, "wall_s", most=_MOST_THREADS)
    return [{**row, "busy_s": _spread(row.pop("at"), row["busy_s"], width)} for row in found]


def _spread(bins: Sequence[int], values: Sequence[float], width: float) -> list[float]:
    """Seconds of each part of the time; a thread that ended more in one was busy before it too."""
    spread = [0.0] * _TIME_BINS
    for at, value in zip(bins, values, strict=True):
        spread[at] = value
    for at in reversed(range(_TIME_BINS)):
        more = max(0.0, spread[at] - width)
        spread[at] -= more
        if at:
            spread[at - 1] += more
    return spread


def _bin_width(events: pl.DataFrame) -> float:
    """Seconds of each of the equal parts of the whole time; 1 where all happened at once."""
    first, last = events.select(pl.col("ts").min(), last=pl.col("ts").max()).row(0)
    return 1.0 if first is None else (last - first) / _TIME_BINS or 1.0


def _bin(events: pl.DataFrame, width: float) -> pl.Expr:
    """In which of the parts of the time an event lies."""
    since = pl.col("ts") - pl.lit(events["ts"].min(), pl.Float64)
    return (since / width).floor().clip(0, _TIME_BINS - 1).cast(pl.Int64)


def _over_time(events: pl.DataFrame) -> list[Figures]:
    width = _bin_width(events)
    answered = events.lazy().filter(pl.col("ts").is_not_null(), ~pl.col("failed"))
    # In order, or the same events would add up to another last digit.
    bins = answered.group_by(at=_bin(events, width), maintain_order=True).agg(
        events=pl.len(), hit_rate=pl.col("hit").mean(), wall_s=pl.col("wall_ms").sum() / 1000
    )
    placed = bins.collect().select((pl.col("at") * width).alias("from_s"), pl.exclude("at"))
    return rows_of(placed, "from_s", descending=False)


def _latency(events: pl.DataFrame, parts: Parts) -> list[Figures]:
    schema = {"probe": pl.String, "view_id": pl.String, "op": pl.String, "hit": pl.Boolean}
    names = pl.DataFrame([*parts.groups], schema=schema, orient="row")
    groups = pl.concat([_latency_of(lot) for lot in _lots(events)])
    return rows_of(names[groups["group"]].hstack(groups.drop("group")), "wall_s")


def _lots(events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The times of a few groups at a time: sorting all would take as much memory again."""
    counts = events["group"].value_counts(sort=True)
    lot = counts["count"].cum_sum() // max(1, len(events) // _LOTS)
    for (_,), of_lot in counts.with_columns(lot=lot).group_by("lot", maintain_order=True):
        in_lot = pl.col("group").is_in(of_lot["group"].implode())
        yield events.lazy().filter(in_lot).select("group", "wall_ms").collect()
    if counts.is_empty():
        yield events.select("group", "wall_ms")


def _latency_of(events: pl.DataFrame) -> pl.DataFrame:
    known = pl.col("wall_ms")
    return events.group_by("group", maintain_order=True).agg(
        events=pl.len(),
        p50_ms=known.quantile(0.5, "nearest"),
        p90_ms=known.quantile(0.9, "nearest"),
        p99_ms=known.quantile(0.99, "nearest"),
        max_ms=known.max(),
        wall_s=known.sum() / 1000,
    )


def _slowest(parts: Parts, texts: Mapping[str, str] | None) -> list[Figures]:
    found = rows_of(first_rows(parts.table("slowest"), "wall_ms", SLOWEST), "wall_ms")
    if texts is None:
        return found
    return [{**row, "prompt": _beginning(texts.get(row["prompt_hash"]))} for row in found]


def _beginning(text: str | None) -> str | None:
    return text if text is None else shorten(text, _MOST_CHARACTERS, placeholder=" …")


def _curve(parts: Parts) -> Figures:
    curve, took_s = parts.curves, parts.computed_with_key_s
    gains = curve.gains()
    largest = gains[-1][0] if gains else 1
    steps = {round(largest ** (n / _CURVE_POINTS)) for n in range(_CURVE_POINTS + 1)}
    ratios = curve_in_entries(curve, sorted(steps), seconds=False)
    seconds = curve_in_entries(curve, sorted(steps), seconds=True)
    computing_s = curve.total()[1]
    points = [
        {
            "entries": size,
            "miss_ratio": ratio,
            "computing_s": seconds[size] * computing_s,
            "less_than_trace_s": took_s - seconds[size] * computing_s,
        }
        for size, ratio in ratios.items()
    ]
    saves_s = points[-1]["less_than_trace_s"]
    return {
        "entries_enough": largest if gains else 0,
        # Less than a billionth of the sums is their rounding.
        "enough_saves_s": saves_s if saves_s > _ROUNDING * took_s else 0.0,
        "without_key": curve.without_key(),
        "points": points,
    }


def _verdict(figures: Figures) -> str:
    total, enough = figures["total"], figures["curve"]["entries_enough"]
    if total["hit_rate"] is None:
        return "No call was answered."
    said = f"{total['hit_rate']:.1%} of {total['hits'] + total['misses']:,} calls were hits"
    if total["from_store"]:
        cached = total["hits"] - total["from_store"]
        said += (
            f", {total['from_store']:,} of values from the store (or from before the trace) "
            f"and {cached:,} of the cache"
        )
    if total["saved_s"] > 0:
        said += f", which saved {total['saved_s']:,.1f} s of computing"
    if total["recomputed"]:
        return (
            f"{said}; {total['recomputed']:,} values were computed again "
            f"({total['recomputed_s']:,.1f} s), and a cache of {enough:,} entries would have kept "
            f"all that were asked for again and saved {figures['curve']['enough_saves_s']:,.1f} s."
        )
    return f"{said}; nothing was computed twice."

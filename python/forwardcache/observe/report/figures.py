"""The numbers of a report, as JSON values: the page shows these and no others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from textwrap import shorten
from typing import Any

import polars as pl

from forwardcache._core import _Curve
from forwardcache.observe.curve import curve_in_entries
from forwardcache.observe.frame import to_polars
from forwardcache.observe.reader import TraceReader

Figures = dict[str, Any]

_COLUMNS = (
    "ts", "probe", "view_id", "op", "prompt_hash", "wall_ms", "hit", "run", "key", "batch",
    "batch_size", "error", "waited", "thread", "top_k",
)  # fmt: skip
_BLOCK_EVENTS = 1 << 12
_TIME_BINS = 60
_CURVE_POINTS = 120
_SLOWEST = 20
_MOST_THREADS = 16
_MOST_ROWS = 200
_MOST_CHARACTERS = 200
_ROUNDING = 1e-9

_COMPUTED = ~pl.col("hit") & pl.col("error").is_null()
_FAILED = ~pl.col("hit") & pl.col("error").is_not_null()
_INTERRUPTED = _FAILED & (pl.col("error").cast(pl.String) == "KeyboardInterrupt")
_SPENT_S = pl.col("wall_ms") / 1000


def report_figures(reader: TraceReader, texts: Mapping[str, str] | None = None) -> Figures:
    """What a report says about the events of ``reader``, which is read to its end.

    Args:
        reader: The events.
        texts: Prompts by their ``prompt_hash``, which the slowest computations are shown with.

    Returns:
        JSON values only; seconds end in ``_s``, milliseconds in ``_ms``, shares lie between 0 and
        1, and what is unknown is None.
    """
    curve = _Curve()
    events = read_events(reader, curve)
    figures: Figures = {
        "total": total_of(events),
        "lost": reader.lost,
        "skipped": dict(reader.skipped),
        "over_time": _over_time(events),
        "threads": _threads(events),
        "latency": _latency(events),
        "batches": _batches(events),
        "slowest_batches": _slowest_batches(events),
        "slowest": _slowest(events, texts),
        "warmed": _warmed(events),
        "from_store": _from_store(events),
        "errors": _errors(events),
        "curve": _curve(curve, events),
    }
    return {"verdict": _verdict(figures), **figures}


def read_events(reader: TraceReader, curve: _Curve | None = None) -> pl.DataFrame:
    """The events of ``reader``, each with what its key took when last computed, and by whom."""
    return _joined_with_causes(_frame(reader, curve))


def _frame(reader: TraceReader, curve: _Curve | None) -> pl.DataFrame:
    """The events as a frame in which a number stands for run and key; ``curve`` counts them."""
    # A hash of 64 bits takes a third of the memory of the texts, and a table of them is small.
    number = pl.struct(pl.col("run").cast(pl.String), "key").hash()
    has_key = pl.col("key").is_not_null()
    frames = [to_polars([], columns=_COLUMNS)]
    while block := list(islice(reader, _BLOCK_EVENTS)):
        if curve is not None:
            curve.add(block)
        frames.append(_narrow(to_polars(block, columns=_COLUMNS), number, has_key))
    frames[0] = _narrow(frames[0], number, has_key)
    return pl.concat(frames)


def _narrow(block: pl.DataFrame, number: pl.Expr, has_key: pl.Expr) -> pl.DataFrame:
    thread = pl.col("thread").cast(pl.Int32, strict=False)
    return block.with_columns(thread, same=pl.when(has_key).then(number)).drop("key")


def _joined_with_causes(events: pl.DataFrame) -> pl.DataFrame:
    """Adds to each event what its key took when it was last computed, by whom, how often.

    The events of a key are brought together by sorting, which takes less memory than windows do.
    """
    events = events.with_columns(pl.col("wall_ms").fill_nan(None), pl.col("ts").fill_nan(None))
    row_number = pl.int_range(pl.len(), dtype=pl.UInt32)
    computed = _COMPUTED & pl.col("same").is_not_null()
    # A name is a number in a column of categories, also that of nobody.
    probe = pl.col("probe").cast(pl.String).fill_null("").cast(pl.Categorical)
    found_there = pl.col("hit") & ~pl.col("waited") & pl.col("same").is_not_null()
    sorted_ = events.select(
        "same", "wall_ms", probe, computed=computed, found=found_there, row=row_number
    )
    sorted_ = sorted_.sort("same", maintain_order=True)
    last = pl.when("computed").then(row_number).forward_fill()
    # Another thread's hit may be written before the event of the computation.
    sorted_ = sorted_.with_columns(last=last, before=last.shift(1), later=last.backward_fill())
    found = sorted_.select(
        "row",
        known_ms=_of_the_same_key("wall_ms", "last"),
        computed_by=_of_the_same_key("probe", "last"),
        recomputed=pl.col("computed") & _of_the_same_key("computed", "before").is_not_null(),
        from_outside=pl.col("found") & _never_computed(),
        is_first=pl.col("same").is_first_distinct(),
    )
    return _with_origins(events.hstack(found.sort("row").drop("row")))


def _never_computed() -> pl.Expr:
    """Whether no event of the row's key is a computation: its value came from elsewhere."""
    return pl.all_horizontal(_of_the_same_key("computed", at).is_null() for at in ("last", "later"))


def _with_origins(events: pl.DataFrame) -> pl.DataFrame:
    """Adds what was found in a store, and what was found in the cache after that.

    A value of fewer tokens that follows from a larger one has a key of its own and no computation
    either: it is told by what was asked before.
    """
    asked = ("run", "view_id", "op", "prompt_hash")
    outside = events.lazy().filter("from_outside").select(asked).unique()
    answered = (
        events.lazy().select(*asked, "top_k", "hit", "error", "from_outside").with_row_index()
    )
    largest = pl.col("top_k").cum_max().shift(1).over(asked)
    derived = (
        answered.filter(~_FAILED)
        .join(outside, on=asked, how="semi", nulls_equal=True)
        .sort("index")
        .filter("from_outside", largest > pl.col("top_k"))
        .select("index")
        .collect()
    )
    is_derived = pl.int_range(pl.len(), dtype=pl.UInt32).is_in(derived["index"].implode())
    outside_only = pl.col("from_outside") & ~is_derived
    return events.with_columns(
        from_store=outside_only & pl.col("is_first"),
        after_store=outside_only & ~pl.col("is_first"),
    ).drop("from_outside", "is_first", "top_k")


def _of_the_same_key(values: str, at: str) -> pl.Expr:
    """``values`` in the row that column ``at`` names, if the key there is the same; else null."""
    there = pl.col("same").gather(pl.col(at)) == pl.col("same")
    return pl.when(there).then(pl.col(values).gather(pl.col(at)))


def total_of(events: pl.DataFrame) -> Figures:
    """The totals of what :func:`read_events` gave."""
    spent = _SPENT_S
    waited = pl.col("hit") & pl.col("waited")
    saved = ((pl.col("known_ms") - pl.col("wall_ms")) / 1000).filter("hit", ~pl.col("waited"))
    row = events.select(
        events=pl.len(),
        hits=pl.col("hit").sum(),
        misses=_COMPUTED.sum(),
        failed=(_FAILED & ~_INTERRUPTED).sum(),
        interrupted=_INTERRUPTED.sum(),
        waited=waited.sum(),
        from_store=pl.col("from_store").sum(),
        runs=pl.col("run").drop_nulls().n_unique(),
        miss_s=spent.filter(_COMPUTED).sum(),
        hit_s=spent.filter("hit", ~pl.col("waited")).sum(),
        wait_s=spent.filter(waited).sum(),
        saved_s=saved.sum(),
        # Each of these would have computed what it waited for.
        compute_saved_by_waiting_s=(pl.col("known_ms") / 1000).filter(waited).sum(),
        recomputed=pl.col("recomputed").sum(),
        recomputed_s=spent.filter("recomputed").sum(),
        first_ts=pl.col("ts").min(),
        last_ts=pl.col("ts").max(),
    ).row(0, named=True)
    answered = row["hits"] + row["misses"]
    return {**_json(row), "hit_rate": row["hits"] / answered if answered else None}


def _threads(events: pl.DataFrame) -> list[Figures]:
    """What each thread did, and the seconds that it was busy in each part of the time."""
    width = _bin_width(events)
    known = events.lazy().filter(pl.col("thread").is_not_null(), pl.col("ts").is_not_null())
    each = (
        known.group_by("run", "thread", at=_bin(events, width), maintain_order=True)
        .agg(events=pl.len(), hits=pl.col("hit").sum(), wall_s=pl.col("wall_ms").sum() / 1e3)
        .collect()
        .sort(pl.col("run").cast(pl.String), "thread", "at")
    )
    if each.is_empty():
        return []
    threads = each.group_by("run", "thread", maintain_order=True).agg(
        pl.col("events", "hits", "wall_s").sum(), pl.col("at"), pl.col("wall_s").alias("busy_s")
    )
    found = rows_of(threads.top_k(_MOST_THREADS, by="wall_s"), "wall_s")
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
    answered = events.lazy().filter(pl.col("ts").is_not_null(), ~_FAILED)
    # In order, or the same events would add up to another last digit.
    bins = answered.group_by(at=_bin(events, width), maintain_order=True).agg(
        events=pl.len(), hit_rate=pl.col("hit").mean(), wall_s=pl.col("wall_ms").sum() / 1000
    )
    placed = bins.collect().select((pl.col("at") * width).alias("from_s"), pl.exclude("at"))
    return rows_of(placed, "from_s", descending=False)


def _latency(events: pl.DataFrame) -> list[Figures]:
    known = pl.col("wall_ms")
    groups = events.group_by("probe", "view_id", "op", "hit", maintain_order=True).agg(
        events=pl.len(),
        p50_ms=known.quantile(0.5, "nearest"),
        p90_ms=known.quantile(0.9, "nearest"),
        p99_ms=known.quantile(0.99, "nearest"),
        max_ms=known.max(),
        wall_s=known.sum() / 1000,
    )
    return rows_of(groups, "wall_s")


def _batches(events: pl.DataFrame) -> list[Figures]:
    computed = events.lazy().filter(_COMPUTED, pl.col("batch").is_not_null())
    each = computed.select("run", "batch", "batch_size").collect().unique(["run", "batch"])
    sizes = each.group_by(size="batch_size").agg(batches=pl.len())
    return rows_of(sizes, "size", descending=False)


def _slowest_batches(events: pl.DataFrame) -> list[Figures]:
    """The batches that took longest: its prompts have equal shares of a batch's time."""
    computed = events.lazy().filter(_COMPUTED, pl.col("batch").is_not_null())
    each = computed.group_by("run", "batch", maintain_order=True).agg(
        pl.col("probe", "view_id", "op").first(), prompts=pl.len(), batch_s=_SPENT_S.sum()
    )
    per_prompt = (1000 * pl.col("batch_s") / pl.col("prompts")).alias("ms_per_prompt")
    slowest = each.top_k(_SLOWEST, by="batch_s").with_columns(per_prompt)
    return rows_of(slowest.drop("run").collect(), "batch_s")


def _slowest(events: pl.DataFrame, texts: Mapping[str, str] | None) -> list[Figures]:
    # In a batch each has its share, whatever it took: batches are ranked as such.
    alone = pl.col("batch").is_null() | (pl.col("batch_size") == 1)
    computed = events.lazy().filter(_COMPUTED, alone, pl.col("wall_ms").is_not_null())
    columns = ("prompt_hash", "probe", "view_id", "op", "wall_ms")
    slowest = computed.select(columns).top_k(_SLOWEST, by="wall_ms").collect()
    found = rows_of(slowest, "wall_ms")
    if texts is None:
        return found
    return [{**row, "prompt": _beginning(texts.get(row["prompt_hash"]))} for row in found]


def _beginning(text: str | None) -> str | None:
    return text if text is None else shorten(text, _MOST_CHARACTERS, placeholder=" …")


def _warmed(events: pl.DataFrame) -> list[Figures]:
    """Hits by who asked and who had computed; an empty name is nobody's."""
    known = events.lazy().filter("hit", pl.col("computed_by").is_not_null())
    hits = known.select("computed_by", "probe", "known_ms", "wall_ms").collect()
    asked_by = pl.col("probe").cast(pl.String).fill_null("")
    pairs = hits.group_by("computed_by", asked_by=asked_by, maintain_order=True)
    saved = (pl.col("known_ms") - pl.col("wall_ms")).sum() / 1000
    return rows_of(pairs.agg(hits=pl.len(), saved_s=saved), "hits")


def _errors(events: pl.DataFrame) -> list[Figures]:
    """Computations that failed, by what they raised; Ctrl-C is no failure of theirs."""
    failed = events.filter(_FAILED, ~_INTERRUPTED)
    return rows_of(failed.group_by("error").len("events"), "events")


def _from_store(events: pl.DataFrame) -> list[Figures]:
    """Values that a store had, by who asked for them first, and the cache's hits on them."""
    known = events.filter(pl.col("from_store") | pl.col("after_store"))
    groups = known.group_by("probe", "view_id", "op", maintain_order=True)
    counts = groups.agg(values=pl.col("from_store").sum(), hits_after=pl.col("after_store").sum())
    return rows_of(counts, "values")


def _curve(curve: _Curve, events: pl.DataFrame) -> Figures:
    gains = curve.gains()
    largest = gains[-1][0] if gains else 1
    steps = {round(largest ** (n / _CURVE_POINTS)) for n in range(_CURVE_POINTS + 1)}
    ratios = curve_in_entries(curve, sorted(steps), seconds=False)
    seconds = curve_in_entries(curve, sorted(steps), seconds=True)
    computing_s = curve.total()[1]
    computed = events.filter(_COMPUTED, pl.col("same").is_not_null())
    took_s = float(computed["wall_ms"].sum()) / 1000
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


def rows_of(
    frame: pl.DataFrame, by: str, *, descending: bool = True, most: int = _MOST_ROWS
) -> list[Figures]:
    """The first rows of ``frame`` by one column, as JSON values; what is no number is None."""
    # The other columns decide between equals, so that a report of the same trace is the same.
    rest = [name for name in frame.columns if name != by]
    texts = frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
    order = [descending, *(False for _ in rest)]
    ordered = texts.sort([by, *rest], descending=order, nulls_last=True)
    return [_json(row) for row in ordered.head(most).iter_rows(named=True)]


def _json(row: Figures) -> Figures:
    return {name: None if _is_no_number(value) else value for name, value in row.items()}


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)

"""What changed between two runs, as JSON values."""

from __future__ import annotations

from typing import Any

import polars as pl

from forwardcache.observe.reader import TraceReader
from forwardcache.observe.report.events import read_events
from forwardcache.observe.report.rows import Figures, rows_of
from forwardcache.observe.report.trace_parts import total_of

# A key names a value within one process only; across runs these say what was asked for.
_ASKED = ("view_id", "op", "prompt_hash")
_NAMED = ("view_id", "op")


def compare_figures(before: TraceReader, after: TraceReader) -> Figures:
    """What changed from the events of one run to those of another.

    Args:
        before: A trace of the run that came first, or is compared with; read to the end.
        after: A trace of the other run; read to the end.

    Returns:
        JSON values only: ``total`` (each figure before and after), ``by_op`` (calls, hit rate and
        seconds by op and view), ``asked`` (prompts that both, only one, or only the other asked
        for, by op and view), ``gaps``, and the verdict. A change is after less before.
    """
    frames = read_events(iter(before)), read_events(iter(after))
    totals = total_of(frames[0]), total_of(frames[1])
    figures: Figures = {
        "total": [
            {"figure": name, **_change(totals[0][name], totals[1][name])}
            for name in totals[0]
            if not name.endswith("_ts")
        ],
        "by_op": _by_op(*frames),
        "asked": _asked(*frames),
        "gaps": [
            {"figure": "events lost by the writer", **_change(before.lost, after.lost)},
            {
                "figure": "lines skipped",
                **_change(sum(before.skipped.values()), sum(after.skipped.values())),
            },
        ],
    }
    return {"verdict": _verdict(*totals, figures["asked"]), **figures}


def _change(before: Any, after: Any) -> Figures:
    known = before is not None and after is not None
    return {"before": before, "after": after, "change": after - before if known else None}


def _by_op(before: pl.DataFrame, after: pl.DataFrame) -> list[Figures]:
    both = _groups(before).join(
        _groups(after), on=_NAMED, how="full", coalesce=True, suffix="_after"
    )
    counts = pl.col("calls", "calls_after", "s", "s_after").fill_null(0)
    changed = both.with_columns(counts).select(
        *_NAMED,
        calls_before="calls",
        calls_after="calls_after",
        before_hit_rate="rate",
        after_hit_rate="rate_after",
        before_s="s",
        after_s="s_after",
        change_s=pl.col("s_after") - pl.col("s"),
    )
    largest = changed.with_columns(size=pl.col("change_s").abs())
    return [
        {name: value for name, value in row.items() if name != "size"}
        for row in rows_of(largest, "size")
    ]


def _groups(events: pl.DataFrame) -> pl.DataFrame:
    named = _with_texts(events.select(*_NAMED, "hit", "error", "wall_ms"))
    answered = pl.col("hit") | pl.col("error").is_null()
    return named.group_by(_NAMED, maintain_order=True).agg(
        calls=pl.len(), rate=pl.col("hit").filter(answered).mean(), s=pl.col("wall_ms").sum() / 1e3
    )


def _asked(before: pl.DataFrame, after: pl.DataFrame) -> list[Figures]:
    sides = [
        _with_texts(events.select(_ASKED)).unique().with_columns(pl.lit(True).alias(name))
        for name, events in (("is_before", before), ("is_after", after))
    ]
    prompts = sides[0].join(sides[1], on=_ASKED, how="full", coalesce=True)
    was, is_now = pl.col("is_before").is_not_null(), pl.col("is_after").is_not_null()
    seen = [side.select(_NAMED).unique() for side in sides]
    for name, there in zip(("left_out", "added"), (seen[1], seen[0]), strict=True):
        # A view or op that one run hasn't asked at all says nothing about prompts.
        asked = there.with_columns(pl.lit(False).alias(name))
        prompts = prompts.join(asked, on=_NAMED, how="left")
    prompts = prompts.with_columns(pl.col("left_out", "added").fill_null(True))
    counted = prompts.group_by(_NAMED, maintain_order=True).agg(
        in_both=(was & is_now).sum(),
        new=(is_now & ~was).sum(),
        gone=(was & ~is_now).sum(),
        asked_by=pl.when(pl.col("left_out").first())
        .then(pl.lit("the first only"))
        .when(pl.col("added").first())
        .then(pl.lit("the second only"))
        .otherwise(pl.lit("both")),
    )
    return rows_of(counted, "view_id", descending=False)


def _with_texts(events: pl.DataFrame) -> pl.DataFrame:
    # Two frames number their categories each in its own way.
    return events.with_columns(pl.col(_NAMED).cast(pl.String))


def _verdict(before: Figures, after: Figures, asked: list[Figures]) -> str:
    if before["hit_rate"] is None or after["hit_rate"] is None:
        return "One of the two answered no call, so there is nothing to compare."
    spent = [sum(each[name] for name in ("miss_s", "hit_s", "wait_s")) for each in (before, after)]
    difference = spent[1] - spent[0]
    size = f"{abs(difference):,.1f} s {'more' if difference > 0 else 'less'}"
    both = [row for row in asked if row["asked_by"] == "both"]
    new, gone = (sum(row[name] for row in both) for name in ("new", "gone"))
    left, added = (
        sorted({f"{row['view_id']} {row['op']}" for row in asked if row["asked_by"] == side})
        for side in ("the first only", "the second only")
    )
    views = "".join(
        f" Not asked for {words}: {', '.join(names)}."
        for words, names in (("any more", left), ("before", added))
        if names
    )
    return (
        f"The second run's calls took {spent[1]:,.1f} s, {size} than the first's "
        f"{spent[0]:,.1f} s; hits went from {before['hit_rate']:.1%} to {after['hit_rate']:.1%}. "
        f"{_prompts(new)} new and {_prompts(gone)} gone, by view and op that both asked for.{views}"
    )


def _prompts(count: int) -> str:
    return "1 prompt is" if count == 1 else f"{count:,} prompts are"

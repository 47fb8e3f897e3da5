"""The events of a trace as a frame, each with who computed its value and how long that took."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import polars as pl

from forwardcache._event import TraceLine
from forwardcache.observe.frame import to_polars
from forwardcache.observe.report.session_curves import SessionCurves

_COLUMNS = (
    "ts", "probe", "view_id", "op", "prompt_hash", "wall_ms", "hit", "run", "key", "batch",
    "batch_size", "error", "waited", "thread", "top_k",
)  # fmt: skip
_BLOCK_EVENTS = 1 << 12

COMPUTED = ~pl.col("hit") & pl.col("error").is_null()
FAILED = ~pl.col("hit") & pl.col("error").is_not_null()
INTERRUPTED = FAILED & (pl.col("error").cast(pl.String) == "KeyboardInterrupt")
SPENT_S = pl.col("wall_ms") / 1000


def read_events(events: Iterator[TraceLine], curves: SessionCurves | None = None) -> pl.DataFrame:
    """The events, each with what its key took when last computed, and by whom.

    Args:
        events: Read to their end.
        curves: Counts them.
    """
    return _joined_with_causes(_frame(events, curves))


def _frame(events: Iterator[TraceLine], curves: SessionCurves | None) -> pl.DataFrame:
    """The events as a frame in which a number stands for run and key; ``curves`` counts them."""
    # A hash of 64 bits takes a third of the memory of the texts, and a table of them is small.
    number = pl.struct(pl.col("run").cast(pl.String), "key").hash()
    has_key = pl.col("key").is_not_null()
    frames = [to_polars([], columns=_COLUMNS)]
    while block := list(islice(events, _BLOCK_EVENTS)):
        if curves is not None:
            curves.add(block)
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
    computed = COMPUTED & pl.col("same").is_not_null()
    # A name is a number in a column of categories, also that of nobody.
    probe = pl.col("probe").cast(pl.String).fill_null("").cast(pl.Categorical)
    found_there = pl.col("hit") & ~pl.col("waited") & pl.col("same").is_not_null()
    sorted_ = events.select(
        "same", "wall_ms", probe, computed=computed, found=found_there, row=row_number
    )
    sorted_ = sorted_.sort("same", maintain_order=True)
    at = pl.when("computed").then(row_number)
    last = at.forward_fill()
    # Another thread's hit may be written before the event of the computation.
    sorted_ = sorted_.with_columns(last=last, before=last.shift(1), later=at.backward_fill())
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
        answered.filter(~FAILED)
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
    ).drop("from_outside", "is_first")


def _of_the_same_key(values: str, at: str) -> pl.Expr:
    """``values`` in the row that column ``at`` names, if the key there is the same; else null."""
    there = pl.col("same").gather(pl.col(at)) == pl.col("same")
    return pl.when(there).then(pl.col(values).gather(pl.col(at)))

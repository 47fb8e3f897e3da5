"""What each trace of a report comes to, so that no more than one lies in memory as a whole.

Counts and sums of parts are added. What only all events together tell (quantiles, parts of the
whole time, which worker computed what another one asked for) is told by ``Parts.events``, a frame
of some forty bytes an event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from forwardcache._event import TraceLine
from forwardcache.observe.reader import TraceReader
from forwardcache.observe.report.events import COMPUTED, FAILED, INTERRUPTED, SPENT_S, read_events
from forwardcache.observe.report.rows import Figures, as_json, first_rows
from forwardcache.observe.report.session_curves import SessionCurves

SLOWEST = 20
"""How many of the slowest are told."""

_GROUP = ("probe", "view_id", "op", "hit")
_VALUE = ("view_id", "op", "prompt_hash", "top_k")


class Parts:
    """Traces that were read, as what they come to.

    Args:
        of_workers: Whether each is a worker's own, so that it is told what they did for each other.

    Attributes:
        curves: Uses by the size of cache from which on they hit.
        totals: Those of each part, in their order, with the worker's name where it has one.
        events: Of each part its events, narrowed: ``ts``, ``wall_ms``, ``group`` (the number of
            one of ``groups``), ``thread`` (of one of ``threads``; null where the trace names
            none), ``hit``, ``failed``; of workers' also ``worker`` (the part's number), ``value``
            (a hash of what was asked for) and ``from_store``.
        groups: Numbers of probe, view, op and hit.
        threads: Numbers of part, session and thread.
        skipped: Lines that can't be used, by reason.
        lost: Events that are missing, as the traces say.
        computed_with_key_s: Seconds of the computations whose events name a key.
        of_workers: As given.
    """

    def __init__(self, *, of_workers: bool) -> None:
        self.curves = SessionCurves()
        self.totals: list[Figures] = []
        self.events: list[pl.DataFrame] = []
        self.groups: dict[tuple[Any, ...], int] = {}
        self.threads: dict[tuple[Any, ...], int] = {}
        self.skipped: Counter[str] = Counter()
        self.lost = 0
        self.computed_with_key_s = 0.0
        self.of_workers = of_workers
        self._tables: dict[str, list[pl.DataFrame]] = {}
        self._sessions: set[str] = set()

    def add(self, events: Iterator[TraceLine], reader: TraceReader, worker: str | None) -> None:
        """Read the ``events`` of ``reader``, which are those of one trace or several, to the end.

        Args:
            events: Read to their end.
            reader: Has their counts.
            worker: Whose they are, where each has a trace of its own.
        """
        frame = read_events(events, self.curves)
        self.curves.end_sessions()
        runs = frame["run"].drop_nulls().unique().cast(pl.String).to_list()
        self._sessions.update(runs)
        with_key = frame.filter(COMPUTED, pl.col("same").is_not_null())
        self.computed_with_key_s += float(with_key["wall_ms"].sum()) / 1000
        gaps = {"lost": reader.lost, "skipped": sum(reader.skipped.values())}
        self.totals.append({"worker": worker, **total_of(frame), **gaps})
        self.lost += reader.lost
        self.skipped.update(reader.skipped)
        for name, table in _tables(frame).items():
            named = table.with_columns(pl.col(pl.Categorical).cast(pl.String))
            if self.of_workers and name in {"slowest", "slowest_batches"}:
                named = named.insert_column(
                    0, pl.Series("worker", [worker] * len(named), pl.String)
                )
            self._tables.setdefault(name, []).append(named)
        self.events.append(self._narrowed(frame))

    def _narrowed(self, frame: pl.DataFrame) -> pl.DataFrame:
        part = len(self.totals) - 1
        threads = _numbers(frame, ("run", "thread"), self.threads, part)
        narrow = frame.select(
            "ts",
            "wall_ms",
            _numbers(frame, _GROUP, self.groups).alias("group"),
            thread=pl.when(pl.col("thread").is_not_null()).then(threads),
            hit="hit",
            failed=FAILED,
        )
        if not self.of_workers:
            return narrow
        value = pl.struct(pl.col(_VALUE).cast(pl.String)).hash()
        shared = frame.select(
            worker=pl.lit(part, pl.UInt32),
            value=pl.when(COMPUTED | pl.col("from_store")).then(value),
            from_store="from_store",
        )
        return narrow.hstack(shared)

    def total(self) -> Figures:
        """The totals of all parts."""
        total: Figures = {}
        for name, value in self.totals[0].items() if self.totals else ():
            values = [each[name] for each in self.totals if each[name] is not None]
            if name == "first_ts":
                total[name] = min(values, default=None)
            elif name == "last_ts":
                total[name] = max(values, default=None)
            elif name not in {"worker", "lost", "skipped", "hit_rate"}:
                total[name] = sum(values, type(value)())
        return with_hit_rate({**total, "runs": len(self._sessions)})

    def table(self, name: str, *, by: Sequence[str] = ()) -> pl.DataFrame:
        """The rows of all parts, one below the other.

        Args:
            name: Of ``slowest``, ``slowest_batches``, ``batches``, ``warmed``, ``from_store``,
                ``errors``.
            by: Columns whose equal rows are added up to one; none: no rows are.
        """
        rows = pl.concat(self._tables[name])
        if not by:
            return rows
        return rows.group_by(by, maintain_order=True).agg(pl.all().sum())


def _numbers(
    frame: pl.DataFrame, columns: Sequence[str], known: dict[tuple[Any, ...], int], *prefix: int
) -> pl.Series:
    """For each row the number of what stands in ``columns``; ``known`` gets what is new."""
    values = frame.select(columns)
    distinct = values.unique(maintain_order=True)
    numbers = [known.setdefault((*prefix, *row), len(known)) for row in distinct.iter_rows()]
    named = distinct.with_columns(pl.Series("number", numbers, pl.UInt32))
    joined = values.join(
        named, on=list(columns), how="left", nulls_equal=True, maintain_order="left"
    )
    return joined["number"]


def total_of(events: pl.DataFrame) -> Figures:
    """The totals of what ``read_events`` gave."""
    spent = SPENT_S
    waited = pl.col("hit") & pl.col("waited")
    saved = ((pl.col("known_ms") - pl.col("wall_ms")) / 1000).filter("hit", ~pl.col("waited"))
    row = events.select(
        events=pl.len(),
        hits=pl.col("hit").sum(),
        misses=COMPUTED.sum(),
        failed=(FAILED & ~INTERRUPTED).sum(),
        interrupted=INTERRUPTED.sum(),
        waited=waited.sum(),
        from_store=pl.col("from_store").sum(),
        runs=pl.col("run").drop_nulls().n_unique(),
        miss_s=spent.filter(COMPUTED).sum(),
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
    return with_hit_rate(row)


def with_hit_rate(total: Figures) -> Figures:
    """``total`` and the share of hits among what was answered, as JSON values."""
    answered = total["hits"] + total["misses"]
    return {**as_json(total), "hit_rate": total["hits"] / answered if answered else None}


def _tables(events: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What can be told of a part alone; see ``Parts.table``."""
    return {
        "batches": _batches(events),
        "slowest_batches": _slowest_batches(events),
        "slowest": _slowest(events),
        "warmed": _warmed(events),
        "from_store": _from_store(events),
        "errors": events.filter(FAILED, ~INTERRUPTED).group_by("error").len("events"),
    }


def _batches(events: pl.DataFrame) -> pl.DataFrame:
    computed = events.lazy().filter(COMPUTED, pl.col("batch").is_not_null())
    each = computed.select("run", "batch", "batch_size").collect().unique(["run", "batch"])
    return each.group_by(size="batch_size").agg(batches=pl.len())


def _slowest_batches(events: pl.DataFrame) -> pl.DataFrame:
    """The batches that took longest: its prompts have equal shares of a batch's time."""
    computed = events.lazy().filter(COMPUTED, pl.col("batch").is_not_null())
    each = computed.group_by("run", "batch", maintain_order=True).agg(
        pl.col("probe", "view_id", "op").first(), prompts=pl.len(), batch_s=SPENT_S.sum()
    )
    per_prompt = (1000 * pl.col("batch_s") / pl.col("prompts")).alias("ms_per_prompt")
    return first_rows(each.with_columns(per_prompt).drop("run").collect(), "batch_s", SLOWEST)


def _slowest(events: pl.DataFrame) -> pl.DataFrame:
    # In a batch each has its share, whatever it took: batches are ranked as such.
    alone = pl.col("batch").is_null() | (pl.col("batch_size") == 1)
    computed = events.lazy().filter(COMPUTED, alone, pl.col("wall_ms").is_not_null())
    columns = ("prompt_hash", "probe", "view_id", "op", "wall_ms")
    return first_rows(computed.select(columns).collect(), "wall_ms", SLOWEST)


def _warmed(events: pl.DataFrame) -> pl.DataFrame:
    """Hits by who asked and who had computed; an empty name is nobody's."""
    known = events.lazy().filter("hit", pl.col("computed_by").is_not_null())
    hits = known.select("computed_by", "probe", "known_ms", "wall_ms").collect()
    asked_by = pl.col("probe").cast(pl.String).fill_null("")
    pairs = hits.group_by("computed_by", asked_by=asked_by, maintain_order=True)
    saved = (pl.col("known_ms") - pl.col("wall_ms")).sum() / 1000
    return pairs.agg(hits=pl.len(), saved_s=saved)


def _from_store(events: pl.DataFrame) -> pl.DataFrame:
    """Values that a store had, by who asked for them first, and the cache's hits on them."""
    known = events.filter(pl.col("from_store") | pl.col("after_store"))
    groups = known.group_by("probe", "view_id", "op", maintain_order=True)
    return groups.agg(values=pl.col("from_store").sum(), hits_after=pl.col("after_store").sum())

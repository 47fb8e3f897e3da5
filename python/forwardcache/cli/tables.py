"""What a comparison looks like: a table and notes for a person, JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from forwardcache.jobs.differences import Comparison, Difference
from forwardcache.jobs.summary import notes, significant
from forwardcache.statistics import Interval


def tables(comparison: Comparison) -> list[Table]:
    """How far the views are from base; then sizes, where signs or null views ask for them."""
    if not comparison.found:
        return []
    needs_sizes = comparison.is_signed or comparison.nulls
    return [_distances(comparison), *([_sizes(comparison)] if needs_sizes else [])]


def _distances(comparison: Comparison) -> Table:
    bound = ",\nlower bound" if comparison.is_bound else ""
    title = comparison.figure.title
    what = f"{title},\nnats" if comparison.is_signed else f"{title}, nats{bound}"
    signs = ("better", "worse") if comparison.is_signed else ()
    shown = _table("view", "prompts", what, "95 % interval", *signs)
    for one in comparison.found:
        within = ", as other batches" if comparison.is_within_floor(one) else ""
        signed, spread = one.figures.signed, one.figures.spread
        shares = () if signed is None else (f"{signed.better:.0%}", f"{signed.worse:.0%}")
        shown.add_row(
            _label(one) + within,
            _count(one),
            significant(spread.mean),
            _ends(spread.interval),
            *shares,
        )
    return shown


def _sizes(comparison: Comparison) -> Table:
    signed, nulls = comparison.is_signed, comparison.nulls
    columns = [
        *(["mean |view -\nbase|, nats"] if signed else []),
        *(["norm added\nto weights", "random,\ndeviation"] if nulls else []),
    ]
    shown = _table("view", *columns)
    for one in comparison.found:
        cells = [significant(one.figures.size)] if signed else []
        if nulls:
            norm = comparison.norms.get(one.view.name)
            cells += ["-" if norm is None else significant(norm), _deviation(one)]
        shown.add_row(_label(one), *cells)
    return shown


def _deviation(one: Difference) -> str:
    if one.view.matched:
        return "matched norm"
    return f"{one.view.deviation:g}" if one.view.is_null else "-"


def _table(*columns: str) -> Table:
    shown = Table(*columns)
    shown.columns[0].no_wrap = True
    for column in shown.columns[1:]:
        column.justify = "right"
    return shown


def _label(one: Difference) -> str:
    return f"{one.view.name} (random)" if one.view.is_null else one.view.name


def _count(one: Difference) -> str:
    prompts, not_finite = one.figures.prompts, one.figures.not_finite
    return f"{prompts:,}" + (f" ({not_finite:,} not finite)" if not_finite else "")


def _ends(interval: Interval) -> str:
    if not interval.is_known:
        return "-"
    # The ends of a bootstrap interval are known to no more.
    rough = " (rough)" if interval.is_rough else ""
    return f"{significant(interval.low, 3)} to {significant(interval.high, 3)}{rough}"


def show_comparison(stream: TextIO, comparison: Comparison, *others: Table) -> None:
    """Print the tables with what has to be said about them."""
    show(stream, *tables(comparison))
    stream.writelines(f"{note}\n" for note in notes(comparison))
    show(stream, *others)


def show(stream: TextIO, *shown: Table) -> None:
    """Print tables, in colour only on a terminal."""
    console = Console(file=stream)
    for each in shown:
        console.print(each)


def show_pairs(stream: TextIO, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Print a table of two columns: what each is, and its value."""
    shown = _table(title, "")
    for line in lines:
        shown.add_row(*line)
    show(stream, shown)


def show_json(stream: TextIO, value: Any) -> None:
    """Print one JSON document."""
    stream.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    stream.flush()

"""What a comparison of views looks like to a person: tables, the three answers, notes.

A figure is a line and a view a column, so that a line's name has room to say what it is; views that
don't fit side by side follow below. That reads the same in a narrow terminal and in a pipe.
Nothing is computed here: every figure is the one that JSON and the page show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from forwardcache.cli import diff_cells
from forwardcache.cli.diff_chain import chain_table
from forwardcache.cli.diff_sweep import BELOW_A_FIGURE, sweep_tables
from forwardcache.jobs.summary import significant
from forwardcache.statistics import (
    FEWEST_TEXTS,
    DiffResult,
    Figures,
    NullComparison,
    ViewDifference,
    answers,
)
from forwardcache.statistics.sentences import BELOW_ZERO, interval_notes
from forwardcache.statistics.sweep import answers_of_all

MOST_GROUPS = 20
"""Groups that a table shows; of more, those that were moved most."""

_UNBOUNDED = 10_000
_Line = tuple[str, Callable[[ViewDifference], str]]
_Build = Callable[[Sequence[ViewDifference]], Table]


def show_diff(stream: TextIO, result: DiffResult) -> None:
    """Print what a run found: figures, answers and notes, in colour only on a terminal.

    Args:
        stream: Where; tables are as wide as its terminal, or as ``COLUMNS`` says.
        result: What was found.
    """
    console = Console(file=stream)
    if result.is_sweep:
        for table in sweep_tables(console, result):
            console.print(table)
    else:
        for build in (_figures(result), _quarters(result)):
            for table in _fitting(console, result.views, build):
                console.print(table)
    if result.chain:
        console.print(chain_table(result.reference, result.chain))
    for of_groups in _groups(result):
        console.print(of_groups)
    stream.writelines(f"{diff_cells.plain(line)}\n" for line in [*_answers(result), *notes(result)])


def _fitting(console: Console, views: Sequence[ViewDifference], build: _Build) -> Iterator[Table]:
    """Tables of as many views each as fit beside each other; of one view where none fits."""
    # A table that may be as wide as it likes says how wide that is.
    unbounded = console.options.update(max_width=_UNBOUNDED)
    count = max(len(views), 1)
    while count > 1 and any(
        Measurement.get(console, unbounded, build(views[at : at + count])).maximum > console.width
        for at in range(0, len(views), count)
    ):
        count -= 1
    for at in range(0, len(views), count):
        yield build(views[at : at + count])


def _figures(result: DiffResult) -> _Build:
    is_rough = any(one.summary.figures.kl.interval.is_rough for one in result.views)
    interval = "  95 % interval" + (", rough" if is_rough else "")
    lines = [*_kl_lines(interval), *_agreement_lines(interval), *_question_lines(result)]

    def build(views: Sequence[ViewDifference]) -> Table:
        table = _table(f"compared with {diff_cells.name(result.reference)}", views)
        for label, cell in lines:
            table.add_row(label, *(cell(view) for view in views))
        return table

    return build


def _kl_lines(interval: str) -> list[_Line]:
    def of_kl(field: str) -> Callable[[ViewDifference], str]:
        return lambda one: diff_cells.number(getattr(one.summary.figures.kl, field))

    return [
        ("mean KL, nats", of_kl("mean")),
        (interval, lambda one: diff_cells.ends(one.summary.figures.kl.interval, diff_cells.nats)),
        ("median KL", of_kl("median")),
        ("99th percentile of KL", of_kl("p99")),
        ("largest KL", of_kl("max")),
    ]


def _agreement_lines(interval: str) -> list[_Line]:
    return [
        ("same top token", lambda one: diff_cells.share(one.summary.figures.same_top)),
        (
            interval,
            lambda one: diff_cells.ends(one.summary.figures.same_top_interval, diff_cells.share),
        ),
        ("perplexity ratio", lambda one: diff_cells.ratio(one.summary.figures.ppl_ratio)),
        (
            interval,
            lambda one: diff_cells.ends(one.summary.figures.ppl_ratio_interval, diff_cells.ratio),
        ),
    ]


def _question_lines(result: DiffResult) -> list[_Line]:
    """The three questions; the figures beside an answer only where something was measured."""
    floor: list[_Line] = [("told from rounding?", diff_cells.told)]
    if any(one.floor is not None for one in result.views):
        floor += [
            ("  rounding's mean KL", diff_cells.rounding),
            ("  rounding's same top", diff_cells.same_top),
        ]
    if any(one.floor is not None and not one.floor.distinguishable for one in result.views):
        floor += [("  would be seen above", diff_cells.would_have_seen)]
    nulls: list[_Line] = [("place among nulls", diff_cells.place)]
    if compared := [one.nulls.compared for one in result.views if one.nulls is not None]:
        nulls += [
            (f"  p, Holm over {compared[0]:,}", diff_cells.p_value),
            ("  times their mean KL", diff_cells.times),
        ]
    return [*floor, *nulls, ("visible from λ", diff_cells.visible)]


def _quarters(result: DiffResult) -> _Build:
    def build(views: Sequence[ViewDifference]) -> Table:
        of = f"{diff_cells.name(result.reference)}'s entropy there, nats"
        table = _table(f"mean KL by quarter of\n{of}", views)
        for rows in zip(*(one.summary.buckets for one in views), strict=True):
            low, high = significant(rows[0].low, 3), significant(rows[0].high, 3)
            table.add_row(
                f"{low} to {high}", *(diff_cells.number(row.figures.kl.mean) for row in rows)
            )
        return table

    return build


def _groups(result: DiffResult) -> Iterator[Table]:
    """For each view a table of its groups, where there are any."""
    for one in result.views:
        if not one.summary.groups:
            continue
        table = Table()
        table.add_column(
            Text(f"{diff_cells.name(result.group_by or 'group')},\n{diff_cells.name(one.view)}")
        )
        place = ["place"] if one.group_nulls else []
        for title in ("mean KL, nats\n95 % interval", "same\ntop", *place):
            table.add_column(title, justify="right")
        for group in _shown(one):
            figures, nulls = one.summary.groups[group], one.group_nulls.get(group)
            label = (
                f"{diff_cells.name(group)}\n({figures.texts:,} {diff_cells.texts(figures.texts)})"
            )
            cells = [_of_group(figures), diff_cells.share(figures.same_top)]
            table.add_row(Text(label), *cells, *([_group_place(nulls)] if one.group_nulls else []))
        yield table


def _shown(one: ViewDifference) -> list[str]:
    """The groups of a view in their order; of too many those that were moved most."""
    groups = one.summary.groups
    if len(groups) <= MOST_GROUPS:
        return list(groups)
    known = [group for group in groups if not math.isnan(groups[group].kl.mean)]
    return sorted(known, key=lambda group: -groups[group].kl.mean)[:MOST_GROUPS]


def _of_group(figures: Figures) -> str:
    # Groups differ in their number of texts, so that each says itself whether it is rough.
    rough = " (rough)" if figures.kl.interval.is_rough else ""
    ends = diff_cells.ends(figures.kl.interval, diff_cells.nats)
    return f"{diff_cells.number(figures.kl.mean)}\n{ends}{rough}"


def _group_place(nulls: NullComparison | None) -> str:
    if nulls is None:
        return diff_cells.NONE
    if not nulls.is_judged:
        return diff_cells.NOT_JUDGED
    return f"{nulls.place},\np = {nulls.p_adjusted:.2g}" if nulls.has_enough else nulls.place


def _table(title: str, views: Sequence[ViewDifference]) -> Table:
    table = Table()
    table.add_column(Text(title))
    for view in views:
        table.add_column(Text(diff_cells.name(view.view)), justify="right")
    return table


def _answers(result: DiffResult) -> list[str]:
    """Each question with the answers of all views, each answer once; of many, counted."""
    if result.is_sweep:
        return list(map(str, answers_of_all(result.views)))
    said: list[str] = []
    for of_views in zip(*(answers(one) for one in result.views), strict=True):
        measured = [one for one in of_views if one.is_measured]
        said += dict.fromkeys(str(one) for one in measured or of_views)
    return said


def notes(result: DiffResult) -> list[str]:
    """What has to be said with the figures for them not to mislead, a sentence each.

    Args:
        result: What a run found; its own notes come last.
    """
    said = [
        f"KL is KL({result.reference} ‖ view) at each of {result.positions:,} positions in "
        f"{result.texts:,} distinct {diff_cells.texts(result.texts)}, over the whole vocabulary; "
        f"the perplexity ratio is view / {result.reference}."
    ]
    said += [BELOW_A_FIGURE] if result.is_sweep else []
    said += [*_interval_notes(result), *_question_notes(result), *_value_notes(result)]
    if any(len(one.summary.groups) > MOST_GROUPS for one in result.views):
        said.append(f"The {MOST_GROUPS} groups that were moved most are shown; JSON has all.")
    if result.skipped:
        said.append(f"{result.skipped:,} {diff_cells.texts(result.skipped)} could not be compared.")
    return [*said, *result.notes]


def _interval_notes(result: DiffResult) -> list[str]:
    known = [one.summary.figures.texts for one in result.views if len(one.positions)]
    texts = min(known, default=result.texts)
    said = interval_notes(texts, len(result.views))
    groups = [one for view in result.views for one in view.summary.groups.values()]
    of_few = sum(one.texts < FEWEST_TEXTS for one in groups)
    if of_few:
        said.append(
            f"{of_few:,} of {len(groups):,} groups have fewer than {FEWEST_TEXTS} distinct texts: "
            "they have no interval, and no place among nulls."
        )
    if len(groups) - of_few > 1:
        said.append("A group's interval is for itself, not for all groups at once.")
    return said


def _question_notes(result: DiffResult) -> list[str]:
    said = []
    places = [one.nulls for one in result.views if one.nulls is not None]
    places += [null for one in result.views for null in one.group_nulls.values()]
    if result.floor is not None and result.floor_texts:
        were = " and nulls were" if places else " was"
        texts = f"{result.floor_texts:,} {diff_cells.texts(result.floor_texts)}"
        said.append(f"Rounding{were} measured on {texts}, where views are held against them.")
    if places:
        first = places[0]
        said.append(
            f"Nulls are {first.n:,} random adapters of the view's weight norm; first is farthest; "
            f"{_p_note(first)}."
        )
    return said


def _p_note(nulls: NullComparison) -> str:
    over = "1 comparison" if nulls.compared == 1 else f"{nulls.compared:,} comparisons"
    if not nulls.has_enough:
        return f"they are too few for a p of 0.05 over {over}"
    return f"p is after Holm over {over}, and can't be below {nulls.p_smallest:.2g}"


def _value_notes(result: DiffResult) -> list[str]:
    said = []
    if any(len(one.positions) and one.positions.kl.min() < 0.0 for one in result.views):
        said.append(BELOW_ZERO)
    return said

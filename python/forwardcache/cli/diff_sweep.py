"""What a comparison of many views looks like to a person: a row a view, an adapter's together.

Columns that don't fit beside each other follow in a table below, with the views' names again. As
in ``diff_table`` nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from forwardcache.cli import diff_cells
from forwardcache.statistics import DiffResult, ViewDifference

BELOW_A_FIGURE = (
    "Below a mean KL is its interval, below the share of the same top token the perplexity ratio, "
    "below a place p after Holm, where nulls are enough for one, and how many times the nulls' "
    "mean the view's is. Above the floor is what can be told from rounding."
)
_UNBOUNDED = 10_000


@dataclass(frozen=True, slots=True)
class _Column:
    """One figure of all views.

    Attributes:
        head: Its name, in as few letters as say it.
        cell: The figure of a view; a second line is its interval, or what else belongs to it.
    """

    head: str
    cell: Callable[[ViewDifference], str]


def sweep_tables(console: Console, result: DiffResult) -> Iterator[Table]:
    """The figures of many views, in as few tables as the terminal has room for.

    Args:
        console: Where they go.
        result: What was found.
    """
    names, columns = _names(result), _columns(result)
    unbounded = console.options.update(max_width=_UNBOUNDED)
    while columns:
        count = len(columns)
        while count > 1 and (
            Measurement.get(console, unbounded, _table(result, [*names, *columns[:count]])).maximum
            > console.width
        ):
            count -= 1
        yield _table(result, [*names, *columns[:count]])
        columns = columns[count:]


def _names(result: DiffResult) -> list[_Column]:
    """What tells the views apart."""
    title = f"compared with\n{diff_cells.name(result.reference)}"
    if all(one.lam is not None for one in result.views):
        of_scale = _Column("λ", lambda one: f"{one.lam:g}")
    else:
        of_scale = _Column("view", lambda one: diff_cells.name(_word(one)))
    if all(one.adapter is None for one in result.views):
        return [_Column(f"{of_scale.head}, {title}", of_scale.cell)]
    found = [_Column(title, _adapter)]
    if any(one.step is not None for one in result.views):
        found.append(_Column("step", lambda one: "" if one.step is None else str(one.step)))
    is_told_apart = len({one.adapter for one in result.views}) < len(result.views)
    return [*found, of_scale] if is_told_apart else found


def _adapter(one: ViewDifference) -> str:
    return diff_cells.name(one.view if one.adapter is None else one.adapter)


def _word(one: ViewDifference) -> str:
    """A view without its adapter's name, which stands beside it."""
    return one.view if one.adapter is None else one.view.removesuffix(f":{one.adapter}")


def _columns(result: DiffResult) -> list[_Column]:
    """The figures, most wanted first; those of a question only where something was measured."""
    rough = " rough" if any(v.summary.figures.kl.interval.is_rough for v in result.views) else ""
    found = [
        _Column(f"mean KL, nats\n95 %{rough}", _kl),
        _Column("same top\nppl ratio", _agreement),
    ]
    if any(one.floor is not None for one in result.views):
        found.append(_Column("above\nfloor", diff_cells.told))
    if any(one.nulls is not None for one in result.views):
        found.append(_Column("place, by\nnulls' mean", _place))
    return found


def _kl(one: ViewDifference) -> str:
    kl = one.summary.figures.kl
    mean = diff_cells.number(kl.mean)
    return (
        f"{mean}\n{diff_cells.ends(kl.interval, diff_cells.nats)}" if kl.interval.is_known else mean
    )


def _agreement(one: ViewDifference) -> str:
    figures = one.summary.figures
    return f"{diff_cells.share(figures.same_top)}\n{diff_cells.ratio(figures.ppl_ratio)}"


def _place(one: ViewDifference) -> str:
    """The place, p where nulls are enough for one, and how far beyond their mean."""
    p, times = diff_cells.p_value(one), diff_cells.times(one)
    more = [] if p == diff_cells.NONE else [f"p {p}"]
    more += [] if times == diff_cells.NONE else [f"{times} times"]
    return "\n".join([diff_cells.place(one), *([", ".join(more)] if more else [])])


def _table(result: DiffResult, columns: Sequence[_Column]) -> Table:
    # Without lines between columns one more has room in 80 letters.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(Text(column.head), justify="right" if number else "left")
    are_groups = len({one.adapter for one in result.views}) < len(result.views)
    before: str | None = None
    for number, one in enumerate(result.views):
        is_first = not number or one.adapter != before
        if number and is_first and are_groups:
            table.add_section()
        before = one.adapter
        cells = [column.cell(one) for column in columns]
        table.add_row(*(Text(cell) for cell in cells))
    return table

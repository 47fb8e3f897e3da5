"""The table of a chain: each stage against the first and against the one before it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from forwardcache.cli.diff_cells import ends, name, nats, number, share
from forwardcache.statistics import Figures, Stage


def chain_table(first: str, stages: Sequence[Stage]) -> Table:
    """Each stage against the first and against its neighbour, a row each.

    Args:
        first: The first stage.
        stages: Those behind it.
    """
    table = Table()
    table.add_column("stage")
    for of in (f"KL from {name(first)},", "KL from the one before,"):
        table.add_column(Text(f"{of}\nmean, nats\n95 % interval"), justify="right")
        table.add_column(Text("same\ntop"), justify="right")
    for stage in stages:
        table.add_row(
            Text(f"{name(stage.view)}\nbehind {name(stage.neighbour)}"),
            *_cells(stage.against_first),
            *_cells(stage.against_neighbour),
        )
    return table


def _cells(figures: Figures) -> tuple[str, str]:
    kl = figures.kl
    return f"{number(kl.mean)}\n{ends(kl.interval, nats)}", share(figures.same_top)

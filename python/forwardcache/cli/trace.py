"""``forwardcache trace``: what a trace comes to, and completing what a killed process left."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardcache import _core
from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.trace_paths import events_once, say_what_is_pending, traces_of, workers_of
from forwardcache.jobs.kinds import FileKind, check_kind
from forwardcache.observe.summary import Figures, Group, Summary, summary_of, total_of
from forwardcache.observe.workers import read_workers

if TYPE_CHECKING:
    from forwardcache._core import _Recovered


# A file isn't wrapped to the width of some terminal, and the numbers need this much of one.
_WIDTH_OF_A_FILE = 1000
_LEAST_WIDTH = 80
_NONE = "-"

_RECOVERED: tuple[Literal["recovered", "journals", "damaged", "alive", "lost"], ...] = (
    "recovered", "journals", "damaged", "alive", "lost",
)  # fmt: skip
_LOOKUPS = ("events", "hits", "misses", "hit rate", "failed", "waited")
_BATCHES = ("batches", "mean batch")
_TIMES = ("hits, s", "waits, s", "misses, s", "failed, s", "p50, ms", "p99, ms")


def summary(given: Sequence[str], *, as_json: bool) -> int:
    """Print the figures of the events in the traces ``given``, for each probe, view and op.

    Where they are several, also those of each of them.

    Raises:
        InvalidInputError: a file can't be used, or two have the same events.
    """
    paths = traces_of(given)
    with events_once():
        found = summary_of(read_workers(workers_of(paths)))
    say_what_is_pending(paths)
    if not found.groups:
        say(f"no events in {', '.join(given)}{_but(found)}")
    if as_json:
        _print_json(_summary_as_json(found))
    elif found.groups:
        groups = found.groups
        _print_tables(_lookups(groups), _batches(groups), _times(groups), _workers(found))
        print(_closing_line(total_of(groups.values()), found))
    return ExitCode.DONE


def _summary_as_json(found: Summary) -> dict[str, Any]:
    groups = found.groups
    return {
        **total_of(groups.values()).as_dict(),
        "lost": found.lost,
        "skipped": dict(found.skipped),
        "groups": [{**group._asdict(), **figures.as_dict()} for group, figures in groups.items()],
        **({"workers": [each.as_dict() for each in found.workers]} if found.are_several else {}),
    }


def _lookups(groups: Mapping[Group, Figures]) -> Table:
    return _table(_LOOKUPS, {group: _lookup_cells(each) for group, each in groups.items()})


def _lookup_cells(figures: Figures) -> list[str]:
    return [
        f"{figures.events:,}",
        f"{figures.hits:,}",
        f"{figures.misses:,}",
        f"{figures.hit_rate:.1%}",
        *(f"{n:,}" if n else _NONE for n in (figures.failed, figures.waited)),
    ]


def _batches(groups: Mapping[Group, Figures]) -> Table:
    batched = {group: each for group, each in groups.items() if each.batches}
    return _table(_BATCHES, {group: _batch_cells(each) for group, each in batched.items()})


def _batch_cells(figures: Figures) -> list[str]:
    size = figures.mean_batch_size
    return [f"{figures.batches:,}", _NONE if size is None else f"{size:,.1f}"]


def _times(groups: Mapping[Group, Figures]) -> Table:
    return _table(_TIMES, {group: _time_cells(each) for group, each in groups.items()})


def _time_cells(figures: Figures) -> list[str]:
    seconds = (figures.hit_wall_s, figures.wait_s, figures.miss_wall_s, figures.failed_wall_s)
    quantiles = (figures.wall_ms.at(0.5), figures.wall_ms.at(0.99))
    return [
        *map(_seconds, seconds),
        # They are known to half a per cent.
        *(_NONE if value is None else _short(value, digits=3) for value in quantiles),
    ]


def _short(value: float, *, digits: int) -> str:
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10**digits <= rounded < 1e15 else f"{rounded:.{digits}g}"


def _workers(found: Summary) -> Table:
    """A row a worker; nothing where there is one only."""
    table = Table(padding=(0, 1, 0, 0))
    table.add_column("worker", overflow="fold", min_width=8)
    columns = ("events", "hits", "misses", "hit rate", "failed", "misses, s", "lost", "skipped")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for each in found.workers if found.are_several else ():
        figures = each.figures
        cells = _lookup_cells(figures)[:5]
        gaps = (f"{n:,}" if n else _NONE for n in (each.lost, each.skipped))
        table.add_row(Text(printable(each.worker)), *cells, _seconds(figures.miss_wall_s), *gaps)
    return table


def _seconds(value: float) -> str:
    return _short(value, digits=4) if value else _NONE


def _table(columns: Sequence[str], rows: Mapping[Group, Sequence[str]]) -> Table:
    """A row a group; columns that are empty in every row are left out."""
    # As narrow as it can be read: names, numbers and lines fit a terminal of 80 columns.
    table = Table(padding=(0, 1, 0, 0))
    for name in ("probe", "view", "op"):
        table.add_column(name, overflow="fold", min_width=8)
    shown = [
        at for at, column in enumerate(zip(*rows.values(), strict=True)) if {*column} != {_NONE}
    ]
    for at in shown:
        table.add_column(columns[at], justify="right", no_wrap=True)
    for group, cells in rows.items():
        probe = _NONE if group.probe is None else group.probe
        names = [Text(printable(name)) for name in (probe, group.view_id, group.op)]
        table.add_row(*names, *(cells[at] for at in shown))
    return table


def printable(name: str) -> str:
    """``name`` without what would move a terminal's cursor or can't be encoded."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _closing_line(total: Figures, found: Summary) -> str:
    what = f"{counted(total.events, 'event')}, {counted(len(total.sessions), 'run')}"
    what += f", {counted(len(found.workers), 'trace')}" if found.are_several else ""
    return f"{what}, {clock(total.first_ts)} to {clock(total.last_ts)}{_but(found)}"


def clock(ts: float) -> str:
    """``ts``, seconds since the epoch, as a date and a time; as it is where it is none."""
    try:
        return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(ts)


def _but(found: Summary) -> str:
    """What is missing among the events that were read."""
    skipped = found.skipped
    lost = f"; {counted(found.lost, 'event')} lost by the writer" if found.lost else ""
    if not skipped:
        return lost
    return f"; skipped {reasons(skipped)}{lost}"


def reasons(skipped: Mapping[str, int]) -> str:
    """How many lines were skipped, and why."""
    each = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(skipped.items()))
    return f"{counted(sum(skipped.values()), 'line')} ({each})"


def counted(number: int, noun: str) -> str:
    """``1 line``, ``2 lines``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def recover(paths: Sequence[str], *, as_json: bool) -> int:
    """Complete traces with what killed processes left next to them.

    Args:
        paths: Traces, folders and patterns of traces, which are completed one after the other.
        as_json: Print the counts of all as JSON.

    Returns:
        NO if a journal was damaged or events are lost, so that the trace isn't complete.

    Raises:
        OSError: the trace or a journal can't be read or written.
        InvalidInputError: the file is of another kind.
    """
    total = _nothing_recovered()
    for path in paths:
        found = _recovered(path)
        for name in _RECOVERED:
            total[name] += found[name]
        if not as_json:
            print(_recovery_line(path, found))
    if as_json:
        _print_json(total)
    return ExitCode.NO if total["damaged"] or total["lost"] else ExitCode.DONE


def _recovered(path: str) -> _Recovered:
    found = _nothing_recovered()
    for each in traces_of([path]):
        check_kind(Path(each), FileKind.TRACE)
        counts = _core.recover_trace(Path(each))
        for name in _RECOVERED:
            found[name] += counts[name]
    return found


def _nothing_recovered() -> _Recovered:
    return {"recovered": 0, "journals": 0, "damaged": 0, "alive": 0, "lost": 0}


def _recovery_line(path: str, found: _Recovered) -> str:
    recovered, journals = (
        counted(found["recovered"], "event"),
        counted(found["journals"], "journal"),
    )
    parts = [f"{recovered} recovered from {journals}"]
    if damaged := found["damaged"]:
        parts.append(f"{counted(damaged, 'part')} of a journal damaged and left out")
    if lost := found["lost"]:
        parts.append(f"{counted(lost, 'event')} lost")
    if alive := found["alive"]:
        parts.append(f"{counted(alive, 'journal')} in use, left alone")
    return f"{path}: {'; '.join(parts)}"


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _print_tables(*tables: Table) -> None:
    console = Console(file=sys.stdout)
    console.width = max(console.width, _LEAST_WIDTH) if console.is_terminal else _WIDTH_OF_A_FILE
    for table in tables:
        if table.rows:
            console.print(table)

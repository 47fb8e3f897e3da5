"""``forwardcache trace watch``: what a run does, while it does it."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forwardcache.cli.exits import ExitCode
from forwardcache.cli.trace import counted, printable, reasons
from forwardcache.cli.trace_paths import is_of_many, new_traces, traces_of
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.kinds import FileKind, check_kind
from forwardcache.observe.chrome import outcome_of
from forwardcache.observe.follow import Follower
from forwardcache.observe.follow_many import Followers
from forwardcache.observe.recent import HISTORY_S, RECENT_S, Recent

_BARS = "▁▂▃▄▅▆▇█"
_NONE = "-"
_STALE_S = 2.0
_MOST_NAMED = 3


def watch(path: Path, *, once: bool, interval_s: float, slowest: int) -> int:
    """Show what the trace ``path`` tells, again and again until Ctrl-C.

    Args:
        path: The trace, or a folder or pattern of traces; unless ``once``, none may be there yet.
        once: Show it as it is, its last event taken for now, and end.
        interval_s: Seconds between two looks.
        slowest: How many of the slowest computations are shown.

    Raises:
        InvalidInputError: standard output is no terminal, and not ``once``; or the file is of
            another kind.
        OSError: the trace can't be read.
    """
    check_kind(path, FileKind.TRACE)
    watched = _Watched(path, slowest)
    with closing(watched.follower):
        if once:
            return _show_once(watched)
        if not sys.stdout.isatty():
            raise InvalidInputError("standard output is no terminal: --once prints it as it is now")
        return _show_again_and_again(watched, interval_s)


class _Watched:
    """A trace and what was read of it."""

    def __init__(self, path: Path, slowest: int) -> None:
        self.path = path
        given = str(path)
        self.are_many = is_of_many(given)
        self.follower: Follower | Followers = (
            Followers(lambda known: new_traces(given, known)) if self.are_many else Follower(path)
        )
        self.recent = Recent(slowest)
        self._slowest, self._starts = slowest, 0

    def look(self) -> bool:
        """Take in what came; whether there is more."""
        for event in self.follower.look():
            if self.follower.starts != self._starts:
                self._begin()
            self.recent.add(event)
        if self.follower.starts != self._starts:
            self._begin()
        return self.follower.behind_bytes > 0

    def _begin(self) -> None:
        self.recent, self._starts = Recent(self._slowest), self.follower.starts


def _show_once(watched: _Watched) -> int:
    # A trace that isn't there is an error here, which opening it tells.
    for path in traces_of([str(watched.path)]):
        Path(path).open("rb").close()
    while watched.look():
        pass
    Console(file=sys.stdout).print(_frame(watched, watched.recent.last_ts))
    return ExitCode.DONE


def _show_again_and_again(watched: _Watched, interval_s: float) -> int:
    console = Console(file=sys.stdout)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            is_more = watched.look()
            live.update(_frame(watched, time.time()), refresh=True)
            if not is_more:
                time.sleep(interval_s)


def _frame(watched: _Watched, now: float) -> RenderableType:
    figures = Table.grid(padding=(0, 2))
    figures.add_column(style="bold", no_wrap=True)
    figures.add_column(overflow="fold")
    for name, value in _rows(watched, now):
        figures.add_row(name, value)
    slow = watched.recent.slowest()
    return Group(figures, Text(), _slowest(watched)) if slow else figures


def _rows(watched: _Watched, now: float) -> list[tuple[str, Text]]:
    recent = watched.recent
    last = recent.last
    probe = _NONE if last is None or last.probe is None else printable(last.probe)
    return [
        ("trace", Text(printable(str(watched.path)))),
        ("state", Text(_state(watched, now))),
        *([("workers", Text(_workers(watched.follower, now)))] if watched.are_many else []),
        ("probe", Text(probe)),
        ("hit rate", Text(_hit_rate(recent, now))),
        ("computed/s", Text(f"{recent.computed_a_second(now):,.1f}  {_bars(recent, now)}")),
        ("events", Text(_events(watched))),
    ]


def _state(watched: _Watched, now: float) -> str:
    if not watched.follower.starts:
        return "waiting for the file"
    if behind := watched.follower.behind_bytes:
        return f"reading, {behind / 1e6:,.1f} MB to go"
    quiet_s = now - watched.recent.last_ts
    return f"nothing new for {quiet_s:,.0f} s" if quiet_s >= _STALE_S else "up to date"


def _workers(follower: Follower | Followers, now: float) -> str:
    """How many there are, and which of them had nothing new for long, the longest first."""
    assert isinstance(follower, Followers)
    quiet = {path: now - ts for path, ts in follower.last_ts.items() if now - ts >= RECENT_S}
    longest = sorted(quiet, key=lambda path: -quiet[path])
    named = [f"{printable(path.name)} for {quiet[path]:,.0f} s" for path in longest[:_MOST_NAMED]]
    parts = [f"{follower.traces:,}"]
    parts += [f"{len(quiet):,} with nothing new: {', '.join(named)}"] * bool(quiet)
    without = follower.traces - len(follower.last_ts)
    parts += [f"{without:,} without an event"] * bool(without)
    return "; ".join(parts) + (", …" if len(quiet) > _MOST_NAMED else "")


def _hit_rate(recent: Recent, now: float) -> str:
    total, lately = recent.total.hit_rate, recent.lately(now).hit_rate
    if total is None:
        return _NONE
    return f"{total:.1%}" + ("" if lately is None else f"  ({lately:.1%} in the last {RECENT_S} s)")


def _bars(recent: Recent, now: float) -> str:
    """A bar a second; a second without any is blank."""
    history = recent.history(now)
    most = max(history)
    if not most:
        return ""
    bars = (_BARS[(count * len(_BARS) - 1) // most] if count else " " for count in history)
    return "".join(bars).lstrip() + f"  (up to {most:,} in the last {HISTORY_S} s)"


def _events(watched: _Watched) -> str:
    total, follower = watched.recent.total, watched.follower
    parts = [f"{total.events:,}: {counted(total.hits, 'hit')}, {total.computed:,} computed"]
    parts += [f"{total.waited:,} waited"] * bool(total.waited)
    parts += [f"{total.failed:,} failed"] * bool(total.failed)
    parts += [f"{counted(follower.lost, 'event')} lost"] * bool(follower.lost)
    parts += [f"skipped {reasons(follower.skipped)}"] * bool(follower.skipped)
    return ", ".join(parts)


def _slowest(watched: _Watched) -> Table:
    # As narrow as it can be read: names of the usual length fit a terminal of 80 columns.
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("slowest, ms", justify="right", no_wrap=True)
    for name in ("view", "op", "prompt", "probe", ""):
        table.add_column(name, overflow="fold")
    for event in watched.recent.slowest():
        probe = _NONE if event.probe is None else event.probe
        names = (event.view_id, event.op, event.prompt_hash, probe)
        outcome = outcome_of(event)
        what = f"{outcome}: {event.error}" if event.error is not None else _shared(event.batch_size)
        cells = [Text(printable(cell)) for cell in (*names, what)]
        table.add_row(f"{event.wall_ms:,.1f}", *cells)
    return table


def _shared(batch_size: int | None) -> str:
    return "" if batch_size is None else f"batch of {batch_size:,}"

"""A progress bar in tokens, on standard error, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from forwardcache.cli.interrupts import Interrupts, heard_interrupts


class TokenProgress:
    """How many tokens are behind us.

    The backend reports what it has run; what came from the cache is only known when a view is done,
    so ``settle`` then sets the bar right. Both raise a ``KeyboardInterrupt`` that was dropped.
    """

    def __init__(self, bar: Progress, total: int, interrupts: Interrupts) -> None:
        self._bar = bar
        self._interrupts = interrupts
        self._task = bar.add_task("scoring", total=total)
        self._settled = 0

    def advance(self, tokens: int) -> None:
        """``tokens`` more were run."""
        self._interrupts.check()
        self._bar.advance(self._task, tokens)

    def settle(self, tokens: int, what: str) -> None:
        """``tokens`` more are done in all, run or not; ``what`` was the last."""
        self._interrupts.check()
        self._settled += tokens
        self._bar.update(self._task, completed=self._settled, description=what)


@contextmanager
def token_progress(total: int) -> Iterator[TokenProgress]:
    """A bar of ``total`` tokens; invisible where standard error is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    visible = sys.stderr.isatty()
    shown = Progress(*columns, console=console, transient=True, disable=not visible)
    with heard_interrupts() as interrupts, shown as bar:
        yield TokenProgress(bar, total, interrupts)

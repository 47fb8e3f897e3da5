"""How far ``diff`` is: the tokens that were read of those that will be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from forwardcache.cli.interrupts import Interrupts, heard_interrupts
from forwardcache.cli.progress import shown


class DiffProgress:
    """What of a run is behind us; a ``KeyboardInterrupt`` that was dropped is raised again.

    Args:
        total_tokens: About how many will be read.
        interrupts: Whether Ctrl-C came.
    """

    word = "comparing"

    def __init__(self, total_tokens: int, interrupts: Interrupts) -> None:
        self.total_tokens, self._interrupts = total_tokens, interrupts
        self.tokens = 0
        self._step = ""
        self._began = time.monotonic()
        self.changed: Callable[[], object] = lambda: None

    def begin(self, step: str) -> None:
        """``step`` begins."""
        self._interrupts.check()
        self._step = step
        self.changed()

    def advance(self, tokens: int) -> None:
        """``tokens`` more were read."""
        self._interrupts.check()
        self.tokens = min(self.tokens + tokens, self.total_tokens)
        self.changed()

    def told(self) -> str:
        """The figures in one line."""
        share = self.tokens / self.total_tokens if self.total_tokens else 1.0
        said = f"{share:.0%}, {self._step}"
        if not share:
            return said
        left = (time.monotonic() - self._began) * (1 - share) / share
        return f"{said}, {timedelta(seconds=round(left))} left"


@contextmanager
def diff_progress(total_tokens: int) -> Iterator[DiffProgress]:
    """Tell how far a run is while the block goes on.

    Args:
        total_tokens: About how many tokens will be read.
    """
    with heard_interrupts() as interrupts:
        progress = DiffProgress(total_tokens, interrupts)
        with shown(progress):
            yield progress

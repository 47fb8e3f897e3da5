"""How far a run is, on standard error: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from forwardcache.cli.exits import say
from forwardcache.cli.interrupts import Interrupts, heard_interrupts
from forwardcache.jobs.job import Job

LINE_EVERY_S = 60.0


class Told(Protocol):
    """What is shown of a run."""

    word: str
    total_tokens: int
    tokens: int
    changed: Callable[[], object]

    def told(self) -> str:
        """The figures in one line."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to run.

    Attributes:
        prompts: All prompts.
        views: Views of each.
        tokens: Of the prompts that aren't done, in one view.
        done: Prompts that were done before.
    """

    prompts: int
    views: int
    tokens: int
    done: int = 0


class RunProgress:
    """What of a job is behind us: prompts, their rate, hits, the time left.

    The backend reports the tokens that it has run; what came from the cache is only known when a
    view of a chunk is done, so ``settle`` then sets the count right. Both raise a
    ``KeyboardInterrupt`` that was dropped.

    Args:
        size: What is run.
        hits: Tells the hits so far.
        interrupts: Whether Ctrl-C came.
    """

    word = "scoring"

    def __init__(self, size: Size, hits: Callable[[], int], interrupts: Interrupts) -> None:
        self._prompts, self._views, self._before = size.prompts, size.views, size.done
        self._hits, self._interrupts = hits, interrupts
        self.total_tokens = size.tokens * size.views
        self.tokens = self._settled_tokens = self._settled_prompts = 0
        self._began = time.monotonic()
        self.changed: Callable[[], object] = lambda: None

    def advance(self, tokens: int) -> None:
        """``tokens`` more were run."""
        self._interrupts.check()
        self.tokens = min(self.tokens + tokens, self.total_tokens)
        self.changed()

    def settle(self, tokens: int, prompts: int) -> None:
        """``tokens`` more are done in all, run or not: those of ``prompts`` in one view."""
        self._interrupts.check()
        self._settled_prompts += prompts
        self.tokens = self._settled_tokens = self._settled_tokens + tokens
        self.changed()

    def told(self) -> str:
        """The figures in one line."""
        done = self._before + self._settled_prompts // self._views
        said = f"{done:,} of {self._prompts:,} prompts"
        share = self.tokens / self.total_tokens if self.total_tokens else 1.0
        # A share of a chunk is no whole prompt, but it is work that was done.
        seconds = time.monotonic() - self._began
        rate = share * (self._prompts - self._before) / seconds if seconds > 0 else 0.0
        said += f", {rate:,.1f} prompts/s, {self._hits():,} hits"
        if not share:
            return said
        left = timedelta(seconds=round(seconds * (1 - share) / share))
        return f"{said}, {left} left"


@contextmanager
def run_progress(job: Job, *, hits: Callable[[], int], done: int = 0) -> Iterator[RunProgress]:
    """Tell how far a run is while the block goes on.

    Args:
        job: What is run.
        hits: Tells the hits so far.
        done: Its prompts that were done before.
    """
    size = Size(len(job.lengths), len(job.views), sum(job.lengths[done:]), done)
    with sized_progress(size, hits=hits) as progress:
        yield progress


@contextmanager
def sized_progress(size: Size, *, hits: Callable[[], int]) -> Iterator[RunProgress]:
    """The same of what is known by its size alone.

    Args:
        size: What is run.
        hits: As of ``run_progress``.
    """
    with heard_interrupts() as interrupts:
        progress = RunProgress(size, hits, interrupts)
        with shown(progress):
            yield progress


def shown(progress: Told) -> AbstractContextManager[None]:
    """Show how far a run is while the block goes on.

    Args:
        progress: Sets ``changed`` off where its figures change.
    """
    return _bar(progress) if sys.stderr.isatty() else _lines(progress)


@contextmanager
def _bar(progress: Told) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn(progress.word), BarColumn(bar_width=20), TextColumn("{task.fields[told]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=progress.total_tokens, told=progress.told())
        progress.changed = lambda: bar.update(task, completed=progress.tokens, told=progress.told())
        yield


@contextmanager
def _lines(progress: Told) -> Iterator[None]:
    """A thread says them: a minute may pass within one batch, or while workers are waited for."""
    ended = threading.Event()

    def say_often() -> None:
        while not ended.wait(LINE_EVERY_S):
            say(progress.told())

    thread = threading.Thread(target=say_often, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

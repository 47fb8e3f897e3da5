"""What ``score`` says at its end, however the rows came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from forwardcache.cli.exits import say
from forwardcache.jobs.skips import Skipped, skipped_line

if TYPE_CHECKING:
    from forwardcache.jobs.differences import Comparison
    from forwardcache.jobs.options import ScoreOptions
    from forwardcache.jobs.summary import JobFigures
    from forwardcache.jobs.views import View


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job came to.

    Attributes:
        options: What was asked for.
        views: Those that were scored.
        skipped: The prompts without rows, in order.
        found: How the views compare with base.
        figures: What the run cost.
    """

    options: ScoreOptions
    views: Sequence[View]
    skipped: Sequence[Skipped]
    found: Comparison
    figures: JobFigures

    def show(self, stream: TextIO) -> None:
        """The comparison on ``stream``, and one line of figures on standard error.

        Args:
            stream: Where rows don't go.
        """
        from forwardcache.cli import tables
        from forwardcache.jobs import summary

        found = self.found
        has_base = any(view.kind == "base" for view in self.views)
        if self.options.json:
            floor = None if found.floor is None else summary.floor_as_json(found.floor)
            said = summary.notes(found) if has_base else [summary.NO_BASE]
            told = {"op": self.options.op, "views": summary.as_json(found), "notes": said}
            told["skipped"] = [one.as_json() for one in self.skipped]
            tables.show_json(stream, {**told, "noise_floor": floor, "run": self.figures.as_json()})
        else:
            tables.show_comparison(stream, found)
            if not has_base:
                say(summary.NO_BASE)
        if found.floor is not None:
            say(summary.floor_line(found.floor))
        if self.skipped:
            say(skipped_line(self.skipped, None))
        say(self.figures.line())

"""One run of a job, timed and counted; ``score``, ``export`` and ``demo`` share it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from forwardcache.cli.progress import Size, run_progress, sized_progress
from forwardcache.jobs.job import Job, Progress
from forwardcache.jobs.results import RowSink
from forwardcache.jobs.session import Session
from forwardcache.jobs.summary import JobFigures, figures_between

if TYPE_CHECKING:
    from forwardcache.distributed.parts.job import PartsScoring
    from forwardcache.distributed.scoring import TeamScoring


def timed_team_job(scoring: TeamScoring, sink: RowSink, *, done: int = 0) -> JobFigures:
    """Score the prompts from ``done`` on with a team; what it cost."""
    began = time.perf_counter()

    def hits() -> int:
        return int(scoring.stats["cache_hits"])

    with run_progress(scoring.job, hits=hits, done=done) as progress:
        scoring.run(sink, progress, done=done)
    stats = figures_between(dict.fromkeys(scoring.stats, 0), scoring.stats)
    return JobFigures(stats, scoring.totals.tokens_run, time.perf_counter() - began)


def timed_parts(scoring: PartsScoring) -> JobFigures:
    """Score what has no part yet; what it cost."""
    began, plan, tally = time.perf_counter(), scoring.plan, scoring.tally

    def hits() -> int:
        return int(tally.stats["cache_hits"])

    left = plan.tokens - scoring.tokens_done
    size = Size(plan.prompts, len(scoring.job.views), left, scoring.prompts_done)
    with sized_progress(size, hits=hits) as progress:
        scoring.run(progress)
    stats = figures_between(dict.fromkeys(tally.stats, 0), tally.stats)
    return JobFigures(stats, tally.tokens_run, time.perf_counter() - began)


class _Totals(Protocol):
    tokens_run: int


class Timed(Protocol):
    """Prompts through views, rows to a sink."""

    @property
    def job(self) -> Job:
        """What is scored."""

    @property
    def totals(self) -> _Totals:
        """What was found."""

    def run(self, sink: RowSink, progress: Progress, *, done: int = 0) -> None:
        """Score what isn't done and write its rows."""


def timed_job(session: Session, scoring: Timed, sink: RowSink, *, done: int = 0) -> JobFigures:
    """Score the prompts from ``done`` on into ``sink``; what it cost."""
    before, began = session.backend.stats.to_dict(), time.perf_counter()

    def hits() -> int:
        return int(session.backend.stats.cache_hits - before["cache_hits"])

    with run_progress(scoring.job, hits=hits, done=done) as progress:
        session.backend.progress = progress.advance
        try:
            scoring.run(sink, progress, done=done)
        finally:
            session.backend.progress = None
    stats = figures_between(before, session.backend.stats.to_dict())
    return JobFigures(stats, scoring.totals.tokens_run, time.perf_counter() - began)

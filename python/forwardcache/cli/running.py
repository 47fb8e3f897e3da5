"""One run of a job, timed and counted; ``score`` and ``demo`` share it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forwardcache.cli.compare import WIDE
from forwardcache.cli.job import AGAINST_BASE, Job, Scoring, Tally
from forwardcache.cli.loading import Session
from forwardcache.cli.output import PartFile, RowSink
from forwardcache.cli.progress import token_progress
from forwardcache.cli.prompts import PromptSet
from forwardcache.cli.summary import RunFigures, figures_between
from forwardcache.cli.views import View
from forwardcache.errors import ForwardCacheError

if TYPE_CHECKING:
    from forwardcache.distributed.scoring import TeamScoring


def make_job(
    session: Session, source: PromptSet, op: str, views: tuple[View, ...], *, top_k: int
) -> Job:
    """A job whose prompts can all be scored.

    Raises:
        BadInputError: a prompt can't be scored; its line is named.
    """
    lengths = _checked_lengths(session, source, op)
    return Job(source, lengths, op, views, top_k, asked_k(views, top_k, session.vocab_size))


def asked_k(views: Sequence[View], top_k: int, vocab_size: int) -> int:
    """Tokens asked of the model where rows have ``top_k``: more where views are compared."""
    compared = len(views) > 1 and any(view.kind == "base" for view in views)
    return max(top_k, min(WIDE, vocab_size)) if compared else top_k


def _checked_lengths(session: Session, source: PromptSet, op: str) -> list[int]:
    lengths: list[int] = []
    found = session.backend.token_lengths(source.items(op), op=op)
    for prompt, length in zip(source.prompts, found, strict=True):
        if isinstance(length, ForwardCacheError):
            source.refuse(prompt, str(length))
        lengths.append(length)
    return lengths


def take_up(part: PartFile, job: Job, tally: Tally) -> int:
    """Go on with the rows of an unfinished run.

    Returns:
        Prompts that are done: those of whole chunks, so that the others run in the batches they
        would have run in. What stands behind them in the part is cut off.
    """
    ends = _prompts_at_ends(job)
    pending, done, end = [], 0, 0
    for count, (row, offset) in enumerate(part.whole_rows(job.places()), start=1):
        pending.append({name: row[name] for name in ("view", *AGAINST_BASE) if name in row})
        if count in ends:
            done, end = ends[count], offset
            for known in pending:
                tally.note(known)
            pending.clear()
    part.cut(end)
    return done


def prompts_done(job: Job, rows: int) -> int:
    """Prompts that ``take_up`` finds done where a part has its first ``rows`` rows whole."""
    return max((done for end, done in _prompts_at_ends(job).items() if end <= rows), default=0)


def _prompts_at_ends(job: Job) -> dict[int, int]:
    """Rows up to the end of each chunk, and the prompts that they are of."""
    return {chunk.stop * len(job.views): chunk.stop for chunk in job.chunks()}


def timed_team_run(scoring: TeamScoring, sink: RowSink, *, done: int = 0) -> RunFigures:
    """Score the prompts from ``done`` on with a team; what it cost."""
    job, began = scoring.job, time.perf_counter()
    with token_progress(sum(job.lengths[done:]) * len(job.views)) as progress:
        scoring.run(sink, progress, done=done)
    stats = figures_between(dict.fromkeys(scoring.stats, 0), scoring.stats)
    return RunFigures(stats, scoring.tally.tokens_run, time.perf_counter() - began)


def timed_run(session: Session, scoring: Scoring, sink: RowSink, *, done: int = 0) -> RunFigures:
    """Score the prompts from ``done`` on into ``sink``; what it cost."""
    before, began = session.backend.stats.to_dict(), time.perf_counter()
    job = scoring.job
    with token_progress(sum(job.lengths[done:]) * len(job.views)) as progress:
        session.backend.progress = progress.advance
        try:
            scoring.run(sink, progress, done=done)
        finally:
            session.backend.progress = None
    stats = figures_between(before, session.backend.stats.to_dict())
    return RunFigures(stats, scoring.tally.tokens_run, time.perf_counter() - began)

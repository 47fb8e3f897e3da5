"""One run of a job, timed and counted; ``score`` and ``demo`` share it."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from forwardcache.cli.compare import WIDE
from forwardcache.cli.job import TALLIED, Job, Scoring, Tally
from forwardcache.cli.loading import Session
from forwardcache.cli.output import PartFile, RowSink
from forwardcache.cli.progress import run_progress
from forwardcache.cli.prompts import PromptSet
from forwardcache.cli.skips import OnError, Skipped
from forwardcache.cli.summary import RunFigures, figures_between
from forwardcache.cli.views import View

if TYPE_CHECKING:
    from forwardcache.distributed.scoring import TeamScoring


def make_job(
    session: Session,
    source: PromptSet,
    op: str,
    views: tuple[View, ...],
    *,
    top_k: int,
    on_error: OnError = "fail",
) -> Job:
    """A job whose prompts can all be encoded.

    Raises:
        BadInputError: a prompt can't be and isn't to be skipped; its line is named.
    """
    found = session.backend.token_lengths(source.items(op), op=op)
    source, lengths = with_lengths(source, found, on_error)
    k = asked_k(views, top_k, session.vocab_size)
    return Job(source, lengths, op, views, top_k, k, on_error)


def asked_k(views: Sequence[View], top_k: int, vocab_size: int) -> int:
    """Tokens asked of the model where rows have ``top_k``: more where views are compared."""
    compared = len(views) > 1 and any(view.kind == "base" for view in views)
    return max(top_k, min(WIDE, vocab_size)) if compared else top_k


def with_lengths(
    source: PromptSet, found: Sequence[int | str | Exception], on_error: OnError
) -> tuple[PromptSet, list[int]]:
    """The prompts that have a length, and their lengths.

    Args:
        source: The prompts.
        found: Tokens of each, or why it can't be scored.
        on_error: Whether those without a length are skipped.

    Raises:
        BadInputError: one has none and isn't to be skipped; its line is named.
    """
    lengths = [length for length in found if isinstance(length, int)]
    reasons = {at: str(each) for at, each in enumerate(found) if not isinstance(each, int)}
    if reasons and on_error == "fail":
        first = min(reasons)
        source.refuse(source.prompts[first], reasons[first])
    return (source.without(reasons) if reasons else source), lengths


def take_up(part: PartFile, job: Job, tally: Tally) -> int:
    """Go on with the rows of an unfinished run.

    Returns:
        Prompts that are done: those of whole chunks, so that the others run in the batches they
        would have run in. What stands behind them in the part is cut off.
    """
    known_skips = part.skipped()
    lines = {one.line for one in known_skips}
    ends = _prompts_at_ends(job, lines)
    places = (place for place in job.places() if place[0] not in lines)
    pending, done, end = [], 0, 0
    for count, (row, offset) in enumerate(part.whole_rows(places), start=1):
        pending.append({name: row[name] for name in TALLIED if name in row})
        if count in ends:
            done, end = ends[count], offset
            for known in pending:
                tally.note(known)
            pending.clear()
    part.cut(end)
    done_lines = {prompt.line for prompt in job.source.prompts[:done]}
    tally.skipped = [one for one in known_skips if one.line in done_lines]
    part.set_skipped(tally.skipped)
    return done


def prompts_done(job: Job, rows: int, skipped: Sequence[Skipped]) -> int:
    """Prompts that ``take_up`` finds done where a part has its first ``rows`` rows whole."""
    lines = {one.line for one in skipped}
    ends = _prompts_at_ends(job, lines)
    return max((done for end, done in ends.items() if end <= rows), default=0)


def _prompts_at_ends(job: Job, skipped: Set[int]) -> dict[int, int]:
    """Rows up to the end of each chunk, and the prompts that they are of or that have none."""
    rows, ends = 0, {}
    for chunk in job.chunks():
        prompts = job.source.prompts[chunk.start : chunk.stop]
        rows += sum(prompt.line not in skipped for prompt in prompts) * len(job.views)
        ends[rows] = chunk.stop
    return ends


def update_norms(backend: Any, views: Sequence[View]) -> dict[str, float | None]:
    """By view: the norm of what it adds to the weights, where null views are to be held to it."""
    if not any(view.is_null for view in views):
        return {}
    norms: dict[str, float | None] = {}
    for view in views:
        with view.of(backend) as entered:
            norms[view.name] = entered.update_norm()
    return norms


def timed_team_run(scoring: TeamScoring, sink: RowSink, *, done: int = 0) -> RunFigures:
    """Score the prompts from ``done`` on with a team; what it cost."""
    began = time.perf_counter()

    def hits() -> int:
        return int(scoring.stats["cache_hits"])

    with run_progress(scoring.job, hits=hits, done=done) as progress:
        scoring.run(sink, progress, done=done)
    stats = figures_between(dict.fromkeys(scoring.stats, 0), scoring.stats)
    return RunFigures(stats, scoring.tally.tokens_run, time.perf_counter() - began)


def timed_run(session: Session, scoring: Scoring, sink: RowSink, *, done: int = 0) -> RunFigures:
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
    return RunFigures(stats, scoring.tally.tokens_run, time.perf_counter() - began)

"""Going on with the rows of a job that was interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Protocol

from forwardcache.jobs.job import Job, Totals
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.skips import Skipped
from forwardcache.jobs.views import View


class InChunks(Protocol):
    """Prompts through views, some prompts at once."""

    @property
    def source(self) -> PromptSet:
        """The prompts."""

    @property
    def views(self) -> Sequence[View]:
        """In the order of a prompt's rows."""

    def chunks(self) -> Iterable[range]:
        """Positions of the prompts that are run at once."""


def take_up(part: PartFile, job: Job, totals: Totals) -> int:
    """Go on with the rows of an unfinished run.

    Returns:
        Prompts that are done: those of whole chunks, so that the others run in the batches they
        would have run in. What stands behind them in the part is cut off.
    """
    known_skips = part.skipped()
    lines = {one.line for one in known_skips}
    ends = prompts_at_ends(job, lines)
    expected = (name for name in job.row_names() if name[0] not in lines)
    pending, done, end = [], 0, 0
    read = totals.reads()
    for count, (row, offset) in enumerate(part.whole_rows(expected), start=1):
        pending.append({name: row[name] for name in read if name in row})
        if count in ends:
            done, end = ends[count], offset
            for known in pending:
                totals.note(known)
            pending.clear()
    part.cut(end)
    done_lines = {prompt.line for prompt in job.source.prompts[:done]}
    totals.skipped = [one for one in known_skips if one.line in done_lines]
    part.set_skipped(totals.skipped)
    return done


def prompts_done(job: InChunks, rows: int, skipped: Sequence[Skipped]) -> int:
    """Prompts that ``take_up`` finds done where a part has its first ``rows`` rows whole."""
    lines = {one.line for one in skipped}
    ends = prompts_at_ends(job, lines)
    return max((done for end, done in ends.items() if end <= rows), default=0)


def prompts_at_ends(job: InChunks, skipped: Set[int]) -> dict[int, int]:
    """Rows up to the end of each chunk, and the prompts that they are of or that have none.

    Args:
        job: What is run.
        skipped: Lines of the prompts that have no rows.
    """
    rows, ends = 0, {}
    for chunk in job.chunks():
        prompts = job.source.prompts[chunk.start : chunk.stop]
        rows += sum(prompt.line not in skipped for prompt in prompts) * len(job.views)
        ends[rows] = chunk.stop
    return ends

"""Going on with the rows of an export that was interrupted."""

from __future__ import annotations

from collections.abc import Sequence, Set

from forwardcache.jobs.export.plan import ExportPlan
from forwardcache.jobs.export.run import Export
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.skips import Skipped


def take_up(part: PartFile, export: Export) -> int:
    """Go on with the rows of an unfinished run.

    Returns:
        How many texts or pairs are done: those of whole chunks, so that the others run in the
        batches they would have run in. What stands behind them in the part is cut off.
    """
    known, prompts, maker = part.skipped(), export.job.source.prompts, export.rows
    lines = {one.line for one in known}
    ends = _at_ends(export.plan, lines)
    heads = (part.fitted(maker.head(one)) for one in prompts if one.line not in lines)
    names = map(maker.name_of, heads)
    pending, done, end = [], 0, 0
    for count, (row, offset) in enumerate(part.whole_rows(names, maker.name_of), start=1):
        pending.append(row)
        if count in ends:
            done, end = ends[count], offset
            for each in pending:
                export.totals.note(each)
            pending.clear()
    part.cut(end)
    done_lines = {prompt.line for prompt in prompts[:done]}
    export.totals.skipped = [one for one in known if one.line in done_lines]
    part.set_skipped(export.totals.skipped)
    return done


def done_so_far(plan: ExportPlan, rows: int, skipped: Sequence[Skipped]) -> int:
    """How many ``take_up`` finds done where a part has its first ``rows`` rows whole."""
    ends = _at_ends(plan, {one.line for one in skipped})
    return max((done for end, done in ends.items() if end <= rows), default=0)


def _at_ends(plan: ExportPlan, skipped: Set[int]) -> dict[int, int]:
    """Rows up to the end of each chunk, and the texts or pairs that they are of."""
    rows, ends = 0, {}
    for chunk in plan.job.chunks():
        prompts = plan.job.source.prompts[chunk.start : chunk.stop]
        rows += sum(prompt.line not in skipped for prompt in prompts)
        ends[rows] = chunk.stop
    return ends

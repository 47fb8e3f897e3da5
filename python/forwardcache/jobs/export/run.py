"""The loop of an export: chunk by chunk through one view, rows to a file as they are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from forwardcache.jobs.export.plan import ExportPlan
from forwardcache.jobs.export.rows import RowMaker
from forwardcache.jobs.export.totals import ExportTotals
from forwardcache.jobs.hits import HitRecorder
from forwardcache.jobs.job import Job, Progress
from forwardcache.jobs.results import RowSink
from forwardcache.jobs.skips import Skipped


class Export:
    """An export on a backend.

    Args:
        backend: The ``HFBackend``.
        recorder: What it calls.
        plan: What is exported.
        rows: Makes rows of values.
        totals: Where the rows are counted.

    Attributes:
        plan: As given.
        rows: As given.
        totals: As given.
        on_skip: Told of the rows of a chunk that are skipped, before the others are written.
    """

    def __init__(
        self,
        backend: Any,
        recorder: HitRecorder,
        plan: ExportPlan,
        rows: RowMaker,
        totals: ExportTotals,
    ) -> None:
        self._backend, self._recorder = backend, recorder
        self._op = plan.job.operation
        self.plan, self.rows, self.totals = plan, rows, totals
        self.on_skip: Callable[[Sequence[Skipped]], None] = lambda _: None

    @property
    def nonfinite(self) -> int:
        """Values with a NaN or infinity so far."""
        return int(self._backend.nonfinite_results)

    @property
    def job(self) -> Job:
        """What is read, in which chunks."""
        return self.plan.job

    def run(self, sink: RowSink, progress: Progress, *, done: int = 0) -> None:
        """Score what isn't done and write its rows.

        Args:
            sink: Where rows go.
            progress: Whom to tell.
            done: How many were done before; the end of a chunk.

        Raises:
            InvalidInputError: the model fails on one that isn't to be skipped.
            MachineError: so, and memory was too small; or the disk is full.
        """
        for chunk in self.job.chunks():
            if chunk.start < done:
                continue
            values, failed = self._values(chunk)
            skipped = [self.job.skips(at, error) for at, error in failed.items()]
            progress.settle(sum(self.job.lengths[chunk.start : chunk.stop]), len(chunk))
            if skipped:
                self.on_skip(skipped)
                self.totals.skipped += skipped
            rows = self.rows.rows(list(values), list(values.values()))
            sink.write(rows)
            for row in rows:
                self.totals.note(row)

    def _values(self, chunk: range) -> tuple[dict[int, list[Any]], dict[int, Exception]]:
        """By position: the values of what is asked there, or the first error."""
        items = [item for at in chunk for item in self.plan.asked[at].items]
        keys = [self._op.key(item) for item in items]
        self._recorder.forget()
        with self.plan.view.of(self._backend) as scorer:
            found = iter(scorer.values(self._op, items, on_error="return"))
        hits = iter(self._recorder.hits(keys))
        values: dict[int, list[Any]] = {}
        failed: dict[int, Exception] = {}
        for at in chunk:
            own = list(islice(found, len(self.plan.asked[at].tokens)))
            are_hits = list(islice(hits, len(own)))
            errors = [one for one in own if isinstance(one, Exception)]
            if errors:
                failed[at] = errors[0]
                continue
            values[at] = own
            if not all(are_hits):
                self.totals.tokens_run += self.job.lengths[at]
        return values, failed

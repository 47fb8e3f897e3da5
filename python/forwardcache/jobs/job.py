"""The scoring loop: prompts through views, chunk by chunk, rows to a sink.

All views of a chunk are scored before its rows are written, so the rows of a prompt stand together
and a view is switched once a chunk. Where chunks begin depends on the prompts alone: a run that was
interrupted goes on with the same batches, and so with the same rows to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from forwardcache.jobs.hits import HitRecorder
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.results import RowSink
from forwardcache.jobs.rows import RawRow, Row, row, written
from forwardcache.jobs.skips import OnError, Skipped
from forwardcache.jobs.views import View
from forwardcache.operation import Figure, Operation
from forwardcache.operations import operation

CHUNK_TOKENS = 8192
CHUNK_PROMPTS = 256


class Cutter:
    """Where chunks begin, told as lengths come in."""

    def __init__(self) -> None:
        self._tokens = self._prompts = 0

    def cuts(self, lengths: Sequence[int]) -> list[int]:
        """Where chunks begin among the next prompts.

        Args:
            lengths: Tokens of each.

        Returns:
            Their positions among these; the chunk before may have begun earlier.
        """
        found, tokens, prompts = [], self._tokens, self._prompts
        most_tokens, most_prompts = CHUNK_TOKENS, CHUNK_PROMPTS
        for position, length in enumerate(lengths):
            if tokens and (tokens + length > most_tokens or prompts == most_prompts):
                found.append(position)
                tokens = prompts = 0
            tokens += length
            prompts += 1
        self._tokens, self._prompts = tokens, prompts
        return found


class Progress(Protocol):
    """Whom to tell how far the job is."""

    def settle(self, tokens: int, prompts: int) -> None:
        """``tokens`` more are done in all, those of ``prompts`` in one view."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to score.

    Attributes:
        source: The prompts.
        lengths: Tokens of each prompt.
        op: The scoring operation.
        views: In the order of a prompt's rows.
        top_k: Tokens in a row of ``next_token_dist``.
        asked_k: Tokens asked of the model for it; more than ``top_k`` where views are compared.
        on_error: Whether a prompt on which the model fails is skipped.
    """

    source: PromptSet
    lengths: Sequence[int]
    op: str
    views: tuple[View, ...]
    top_k: int
    asked_k: int
    on_error: OnError = "fail"

    @property
    def operation(self) -> Operation:
        """The operation as the model is asked for it."""
        return operation(self.op).of(top_k=self.asked_k)

    def row_names(self) -> list[tuple[int, str]]:
        """Line and view of every row, in order."""
        names = [view.name for view in self.views]
        return [(prompt.line, name) for prompt in self.source.prompts for name in names]

    def skips(self, position: int, error: Exception) -> Skipped:
        """The prompt that the model failed on, as one that is skipped.

        Raises:
            InvalidInputError: none is to be skipped.
            MachineError: so, and memory was too small.
        """
        return self.source.failed(self.source.prompts[position], error, self.on_error)

    def texts(self) -> dict[int, str]:
        """What each prompt counts as in an interval, by its line."""
        return {prompt.line: prompt.counts_as for prompt in self.source.prompts}

    def chunks(self) -> Iterator[range]:
        """Positions of prompts that are scored together."""
        edges = [0, *Cutter().cuts(self.lengths), len(self.lengths)]
        return (range(*edge) for edge in pairwise(edges) if edge[0] < edge[1])


def are_compared(views: Sequence[View]) -> bool:
    """Whether base is among the views, and another one."""
    return len(views) > 1 and any(view.kind == "base" for view in views)


@dataclass(slots=True)
class Totals:
    """What a job found, for its summary.

    Args:
        figure: How the operation's values are compared with base's.

    Attributes:
        differences: Per view but base: that figure of each prompt, nats; None where it is no
            finite number.
        lines: Per view: the prompt of each of these.
        fields: In which of the figure's fields.
        fewest_tokens: The fewest tokens that a divergence was computed over; None where all were.
        most_outside: The largest probability of base outside of them.
        tokens_run: Tokens of the prompts that were not in the cache.
        rows: Rows written, those of an earlier run included.
        hits: Those of them whose values were there already.
        skipped: Prompts that the model failed on, those of an earlier run included.
    """

    figure: Figure
    differences: dict[str, list[float | None]] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)
    fewest_tokens: int | None = None
    most_outside: float = 0.0
    tokens_run: int = 0
    rows: int = 0
    hits: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def reads(self) -> tuple[str, ...]:
        """The fields of a row that are taken into account."""
        return ("line", "view", "hit", *self.figure.columns)

    def note(self, noted: Row) -> None:
        """Take one row into account."""
        self.rows += 1
        self.hits += bool(noted.get("hit"))
        for name in self.figure.nats:
            if name in noted:
                self.fields.add(name)
                self.differences.setdefault(noted["view"], []).append(noted[name])
                self.lines.setdefault(noted["view"], []).append(noted["line"])
        if (tokens := noted.get("compared_tokens")) is not None:
            self.fewest_tokens = min(tokens, self.fewest_tokens or tokens)
            self.most_outside = max(self.most_outside, noted.get("mass_outside") or 0.0)


class Scoring:
    """A job on a backend.

    Attributes:
        job: What is scored.
        totals: What was found.
        on_skip: Told of the prompts of a chunk that are skipped, before its rows are written.
    """

    def __init__(self, backend: Any, recorder: HitRecorder, job: Job) -> None:
        from forwardcache.hf.text.chat import key_of

        self._backend = backend
        self._recorder = recorder
        self.job = job
        self._op = job.operation
        # Rendered once: lengths, views and hits are those of one text, whatever the clock.
        self._items = backend.rendered(job.source.items(job.op), op=job.op)
        self._keys = [key_of(self._op.key(item)) for item in self._items]
        self.totals = Totals(self._op.figure)
        self.on_skip: Callable[[Sequence[Skipped]], None] = lambda _: None

    def run(self, sink: RowSink, progress: Progress, *, done: int = 0) -> None:
        """Score what isn't done and write its rows.

        Args:
            sink: Where rows go.
            progress: Whom to tell.
            done: Prompts whose rows were written before; the end of a chunk.
        """
        for chunk in self.job.chunks():
            if chunk.start < done:
                continue
            rows, skipped = self.rows_of(chunk, progress)
            if skipped:
                self.on_skip(skipped)
                self.totals.skipped += skipped
            sink.write(rows)
            for each in rows:
                self.totals.note(each)

    def rows_of(
        self, chunk: range, progress: Progress | None = None
    ) -> tuple[list[Row], list[Skipped]]:
        """The rows of a chunk, prompt by prompt, and the prompts without any; written nowhere."""
        raw, skipped = self.raw_rows_of(chunk, progress)
        fields = written([each.fields for each in raw])
        rows = [
            row(
                self.job.source.prompts[each.position],
                view=each.view,
                op=self.job.op,
                hit=each.hit,
                fields=own,
            )
            for each, own in zip(raw, fields, strict=True)
        ]
        return rows, skipped

    def raw_rows_of(
        self, chunk: range, progress: Progress | None = None
    ) -> tuple[list[RawRow], list[Skipped]]:
        """As ``rows_of``, with the arrays of the values."""
        tokens = sum(self.job.lengths[chunk.start : chunk.stop])
        columns: dict[View, dict[int, RawRow]] = {}
        base_values: dict[int, Any] | None = None
        skipped: dict[int, Skipped] = {}
        op = self._op.beside_base() if are_compared(self.job.views) else self._op
        for view in sorted(self.job.views, key=lambda view: view.kind != "base"):
            positions = [position for position in chunk if position not in skipped]
            values, failed, columns[view] = self._view_rows(op, view, positions, base_values)
            skipped.update((at, self.job.skips(at, error)) for at, error in failed.items())
            base_values = values if view.kind == "base" else base_values
            if progress is not None:
                progress.settle(tokens, len(chunk))
        whole = [position for position in chunk if position not in skipped]
        rows = [columns[view][position] for position in whole for view in self.job.views]
        return rows, [skipped[position] for position in sorted(skipped)]

    def _view_rows(
        self,
        op: Operation,
        view: View,
        positions: Sequence[int],
        base_values: dict[int, Any] | None,
    ) -> tuple[dict[int, Any], dict[int, Exception], dict[int, RawRow]]:
        """Values, errors and rows of one view, by position."""
        items = [self._items[position] for position in positions]
        self._recorder.forget()
        with view.of(self._backend) as scorer:
            found = op.ask(scorer, items)
            hits = self._recorder.hits([self._keys[position] for position in positions])
            failed = {
                at: value
                for at, value in zip(positions, found, strict=True)
                if isinstance(value, Exception)
            }
            values = {
                at: value for at, value in zip(positions, found, strict=True) if at not in failed
            }
            against = self._against(op, scorer, values, base_values)
        pairs = zip(positions, hits, strict=True)
        is_hit = {position: hit for position, hit in pairs if position in values}
        self.totals.tokens_run += sum(self.job.lengths[at] for at, hit in is_hit.items() if not hit)
        rows = {}
        for (at, value), other in zip(values.items(), against, strict=True):
            fields = {**self._op.row(value, top_k=self.job.top_k), **other}
            rows[at] = RawRow(at, view.name, is_hit[at], fields)
        return values, failed, rows

    def _against(
        self,
        op: Operation,
        scorer: Any,
        values: dict[int, Any],
        base_values: dict[int, Any] | None,
    ) -> Sequence[Mapping[str, Any]]:
        """The fields that hold each value against base's; none where there is no base."""
        if base_values is None:
            return [{}] * len(values)
        items = [self._items[position] for position in values]
        bases = [base_values[position] for position in values]
        return op.against(scorer, items, list(values.values()), bases, top_k=self.job.top_k)

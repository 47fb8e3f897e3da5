"""The scoring loop: prompts through views, chunk by chunk, rows to a sink.

All views of a chunk are scored before its rows are written, so the rows of a prompt stand together
and a view is switched once a chunk. Where chunks begin depends on the prompts alone: a run that was
interrupted goes on with the same batches, and so with the same rows to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from forwardcache.cli.compare import kl_at_base_tokens, kl_nats, narrowed
from forwardcache.cli.hits import HitRecorder
from forwardcache.cli.output import RowSink
from forwardcache.cli.prompts import Prompt, PromptSet
from forwardcache.cli.rows import Row, fields_of, finite, row
from forwardcache.cli.views import View
from forwardcache.scoring import CompletionLogprob

CHUNK_TOKENS = 8192
CHUNK_PROMPTS = 256
AGAINST_BASE = ("kl_base_nats", "delta_nats")


class Progress(Protocol):
    """Whom to tell how far the job is."""

    def settle(self, tokens: int, what: str) -> None:
        """``tokens`` more are done in all, those of the view ``what``."""


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
    """

    source: PromptSet
    lengths: Sequence[int]
    op: str
    views: tuple[View, ...]
    top_k: int
    asked_k: int

    def places(self) -> list[tuple[int, str]]:
        """Line and view of every row, in order."""
        names = [view.name for view in self.views]
        return [(prompt.line, name) for prompt in self.source.prompts for name in names]

    def chunks(self) -> Iterator[range]:
        """Positions of prompts that are scored together."""
        start = tokens = 0
        for position, length in enumerate(self.lengths):
            if tokens and (tokens + length > CHUNK_TOKENS or position - start == CHUNK_PROMPTS):
                yield range(start, position)
                start, tokens = position, 0
            tokens += length
        if start < len(self.lengths):
            yield range(start, len(self.lengths))


@dataclass(slots=True)
class Tally:
    """What a job found, for its summary.

    Attributes:
        differences: Per view beside base: KL(base ‖ view) of each prompt, or its difference in
            log-probability, nats; None where that is no finite number.
        tokens_run: Tokens of the prompts that were not in the cache.
        rows: Rows written, those of an earlier run included.
    """

    differences: dict[str, list[float | None]] = field(default_factory=dict)
    tokens_run: int = 0
    rows: int = 0

    def note(self, written: Row) -> None:
        """Take one row into account."""
        self.rows += 1
        for name in AGAINST_BASE:
            if name in written:
                self.differences.setdefault(written["view"], []).append(written[name])


class Scoring:
    """A job on a backend."""

    def __init__(self, backend: Any, recorder: HitRecorder, job: Job) -> None:
        self._backend = backend
        self._recorder = recorder
        self.job = job
        # Rendered once: lengths, views and hits are those of one text, whatever the clock.
        self._items = backend.rendered(job.source.items(job.op), op=job.op)
        self._keys = _keys_of(self._items)
        self.tally = Tally()

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
            rows = self.rows_of(chunk, progress)
            sink.write(rows)
            for written in rows:
                self.tally.note(written)

    def rows_of(self, chunk: range, progress: Progress | None = None) -> list[Row]:
        """The rows of a chunk, prompt by prompt; written nowhere."""
        prompts = self.job.source.prompts[chunk.start : chunk.stop]
        tokens = sum(self.job.lengths[chunk.start : chunk.stop])
        columns: dict[View, list[Row]] = {}
        base_values: list[Any] | None = None
        for view in sorted(self.job.views, key=lambda view: view.kind != "base"):
            values, columns[view] = self._view_rows(view, chunk, prompts, base_values)
            base_values = values if view.kind == "base" else base_values
            if progress is not None:
                progress.settle(tokens, view.name)
        return [columns[view][place] for place in range(len(chunk)) for view in self.job.views]

    def _view_rows(
        self, view: View, chunk: range, prompts: Sequence[Prompt], base_values: list[Any] | None
    ) -> tuple[list[Any], list[Row]]:
        """Values as the rows have them, and the rows, of one view of a chunk."""
        items = self._items[chunk.start : chunk.stop]
        self._recorder.forget()
        with view.of(self._backend) as scorer:
            values = self._ask(scorer, items)
            hits = self._recorder.hits(self._keys[chunk.start : chunk.stop])
            shown = self._shown(values)
            against = self._against(scorer, items, values, base_values)
        missed = (position for position, hit in zip(chunk, hits, strict=True) if not hit)
        self.tally.tokens_run += sum(self.job.lengths[position] for position in missed)
        rows = [
            row(prompt, view=view.name, op=self.job.op, hit=hit, fields=fields, against_base=other)
            for prompt, hit, fields, other in zip(
                prompts, hits, fields_of(self.job.op, shown, self.job.top_k), against, strict=True
            )
        ]
        return shown, rows

    def _ask(self, scorer: Any, items: Sequence[Any]) -> list[Any]:
        """The values of ``items``, in one call."""
        values: list[Any]
        if self.job.op == "next_token_dist":
            values = scorer.next_token_dist_batch(items, top_k=self.job.asked_k)
        elif self.job.op == "rolling_logprob":
            values = scorer.rolling_logprob_batch(items)
        else:
            values = scorer.completion_logprob_batch(items)
        return values

    def _shown(self, values: list[Any]) -> list[Any]:
        """Values with as many tokens as a row has."""
        if self.job.op != "next_token_dist":
            return values
        return [narrowed(value, self.job.top_k) for value in values]

    def _against(
        self, scorer: Any, items: Sequence[Any], values: list[Any], base_values: list[Any] | None
    ) -> Sequence[Row | None]:
        """The field that holds each value against base's, where there are any."""
        if base_values is None:
            return [None] * len(items)
        if self.job.op == "next_token_dist":
            found = self._divergences(scorer, items, values, base_values)
            return [{"kl_base_nats": finite(kl)} for kl in found]
        pairs = zip(map(_total, values), map(_total, base_values), strict=True)
        return [{"delta_nats": finite(value - base)} for value, base in pairs]

    def _divergences(
        self, scorer: Any, items: Sequence[Any], values: list[Any], base_values: list[Any]
    ) -> list[float | None]:
        """KL(base ‖ view) of each prompt, nats; a second pass where the first lacks a token."""
        pairs = zip(base_values, values, strict=True)
        found = [kl_nats(base, value) for base, value in pairs]
        lacking = [place for place, kl in enumerate(found) if kl is None]
        if lacking:
            wanted = [base_values[place].token_ids for place in lacking]
            at_base = scorer.token_dist_at_batch([items[place] for place in lacking], wanted)
            for place, dist in zip(lacking, at_base, strict=True):
                found[place] = kl_at_base_tokens(base_values[place], dist)
        return found


def _keys_of(items: Sequence[Any]) -> list[Any]:
    """Each item as the cache has it."""
    from forwardcache.hf.chat import key_of

    return list(map(key_of, items))


def _total(value: Any) -> float:
    """The log-probability of a whole text or completion, nats."""
    name = "logprob" if isinstance(value, CompletionLogprob) else "total_logprob"
    return float(getattr(value, name))

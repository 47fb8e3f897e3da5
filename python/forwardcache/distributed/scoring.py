"""A job over a team: the same parts as in one process, their rows in the same order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from forwardcache.adapter_names import check_names
from forwardcache.distributed.counters import add_gained
from forwardcache.distributed.crew import Crew
from forwardcache.distributed.wire import Part, answer, packed, packed_options
from forwardcache.errors import InvalidInputError
from forwardcache.instrumentation import BackendStats
from forwardcache.jobs.adapters import default_views
from forwardcache.jobs.job import Job, Progress, Totals
from forwardcache.jobs.options import ModelOptions, NamedAdapter, ScoreOptions, tokenizer_folder
from forwardcache.jobs.planning import asked_k, with_lengths
from forwardcache.jobs.prompts import Prompt, PromptSet
from forwardcache.jobs.results import RowSink
from forwardcache.jobs.rows import Row
from forwardcache.jobs.skips import OnError, Skipped
from forwardcache.jobs.views import View, parse_views
from forwardcache.operations import of_prompts
from forwardcache.store import absolute_address

# Prompts whose lengths are asked for at once.
_LENGTHS = 1024


class TeamScoring:
    """A job on a crew; as ``Scoring`` on a backend.

    Attributes:
        job: What is scored.
        totals: What was found.
        stats: What the workers' counters gained.
        nonfinite: Values that were not finite.
        on_skip: As of ``Scoring``.
    """

    def __init__(self, team: Crew[Any], job: Job) -> None:
        self._team = team
        self.job = job
        self.totals = Totals(job.operation.figure)
        self.stats: dict[str, int | float] = dict(BackendStats().to_dict())
        self.nonfinite = 0
        self.on_skip: Callable[[Sequence[Skipped]], None] = lambda _: None

    def run(self, sink: RowSink, progress: Progress, *, done: int = 0) -> None:
        """Scores what isn't done and writes its rows, in order.

        Args:
            sink: Where rows go.
            progress: Whom to tell.
            done: Prompts whose rows were written before; the end of a chunk.
        """
        for chunk, rows in self.rows(done=done):
            sink.write(rows)
            for written in rows:
                self.totals.note(written)
            tokens, views = sum(self.job.lengths[chunk.start : chunk.stop]), len(self.job.views)
            progress.settle(tokens * views, len(chunk) * views)

    def rows(self, *, done: int = 0) -> Iterator[tuple[range, list[Row]]]:
        """The rows of each chunk that isn't done, in order."""
        chunks = [chunk for chunk in self.job.chunks() if chunk.start >= done]
        results = self._team.run("rows", len(chunks), lambda part: self._packed(chunks[part]))
        for chunk, result in zip(chunks, results, strict=True):
            found = answer(result)
            self._note(found)
            self._note_skipped([Skipped(**each) for each in found["skipped"]])
            yield chunk, found["rows"]

    def _note_skipped(self, skipped: list[Skipped]) -> None:
        """Takes prompts that a worker failed on into account.

        Raises:
            InvalidInputError: none is to be skipped.
        """
        if not skipped:
            return
        if self.job.on_error == "fail":
            first = skipped[0]
            raise InvalidInputError(f"{self.job.source.place(first.line)}: {first.reason}")
        self.on_skip(skipped)
        self.totals.skipped += skipped

    def arithmetic(self) -> dict[str, Any]:
        """That of the first worker that loaded the model."""
        found: dict[str, Any] = self._team.facts()["arithmetic"]
        return found

    def norms(self) -> dict[str, float | None]:
        """By view: the norm of what it adds to the weights, where there are null views."""
        return norms_of(self._team, self.job.views)

    def _packed(self, chunk: range) -> bytes:
        job, positions = self.job, slice(chunk.start, chunk.stop)
        lengths = tuple(job.lengths[positions])
        part = Part(
            job.source.prompts[positions], lengths, job.op, job.views, job.top_k, job.asked_k
        )
        return part.packed()

    def _note(self, found: dict[str, Any]) -> None:
        self.totals.tokens_run += found["tokens_run"]
        self.nonfinite += found["nonfinite"]
        add_gained(self.stats, found["stats"])


def norms_of(crew: Crew[Any], views: Sequence[View]) -> dict[str, float | None]:
    """By view: the norm of what it adds to the weights, where there are null views."""
    asked = packed([asdict(view) for view in views])
    [result] = crew.run("norms", 1, lambda _: asked)
    norms: dict[str, float | None] = answer(result)
    return norms


def make_job(
    team: Crew[Any],
    source: PromptSet,
    op: str,
    views: tuple[View, ...],
    *,
    top_k: int,
    on_error: OnError = "fail",
) -> Job:
    """A job whose prompts can all be encoded, in the chunks of a run in one process.

    Raises:
        InvalidInputError: a prompt can't be and isn't to be skipped; its line is named.
    """
    source, lengths = with_lengths(source, _lengths(team, source, op), on_error)
    k = asked_k(views, top_k, team.facts()["vocab_size"])
    return Job(source, lengths, op, views, top_k, k, on_error)


def team_for(
    options: ModelOptions,
    *,
    workers: int,
    address: str | None,
    worker_cpus: int | None = None,
    copies: bool = False,
) -> Crew[Any]:
    """Workers that load the same model; each has a trace of its own (``trace_of``).

    Relative paths are those of this process: a cluster's workers have a folder of their own.

    Args:
        options: What each loads.
        workers: How many.
        address: As of ``Team``; None for processes of this machine, as of ``LocalCrew``.
        worker_cpus: As of these.
        copies: As of ``Crew``; none where there are traces, in which each forward stands once.

    Raises:
        InvalidInputError: as of these.
    """
    there = _absolute(options)

    def of_worker(number: int) -> bytes:
        trace = None if there.trace is None else trace_of(there.trace, number)
        return packed_options(replace(there, trace=trace))

    copies = copies and there.trace is None
    if address is None:
        from forwardcache.distributed.local import LocalCrew

        return LocalCrew(
            workers,
            of_worker,
            on_gpu=options.device in {"auto", "cuda"},
            worker_cpus=worker_cpus,
            copies=copies,
        )
    from forwardcache.distributed.team import Team

    return Team(
        workers,
        of_worker,
        address=address,
        on_gpu=options.device != "cpu",
        worker_cpus=worker_cpus,
        copies=copies,
    )


def crew_for(options: ScoreOptions) -> Crew[Any]:
    """The workers that ``score`` was asked for; as of ``team_for``."""
    return team_for(
        options.loading,
        workers=options.workers or 1,
        address=options.ray,
        worker_cpus=options.worker_cpus,
        copies=True,
    )


def _absolute(options: ModelOptions) -> ModelOptions:
    """The same with absolute paths."""
    folder = partial(_absolute_folder, may_be_hub=options.allow_download)
    own = tokenizer_folder(options.tokenizer)
    return replace(
        options,
        model=folder(options.model),
        adapters=tuple(replace(each, folder=folder(each.folder)) for each in options.adapters),
        tokenizer=options.tokenizer if own is None else folder(own),
        store=None if options.store is None else absolute_address(options.store),
        trace=None if options.trace is None else Path(options.trace).absolute(),
    )


def _absolute_folder(given: str, *, may_be_hub: bool) -> str:
    is_name = may_be_hub and not Path(given).exists()
    return str(given) if is_name else os.path.abspath(given)


def trace_of(trace: Path, number: int | str) -> Path:
    """The trace of the worker ``number``: ``trace.jsonl`` becomes ``trace.0.jsonl``."""
    return trace.with_name(f"{trace.stem}.{number}{trace.suffix}")


def score(
    prompts: Sequence[str | tuple[str, str]],
    *,
    model: str,
    workers: int,
    adapter: str | Mapping[str, str] | None = None,
    views: str | None = None,
    op: str = "next_token_dist",
    top_k: int = 256,
    address: str | None = None,
    worker_cpus: int | None = None,
    **options: Any,
) -> list[Row]:
    """Scores prompts through views of one model, by many processes or on many machines.

    Args:
        prompts: Texts, or for ``logprob_of`` pairs of prompt and completion.
        model: Folder of the model; each machine reads it there.
        workers: How many models are loaded; each takes a GPU where there are any.
        adapter: Folder of an adapter; or folders of several by their names.
        views: As ``--views`` of the command line.
        op: An operation that needs nothing but prompts, such as ``next_token_dist``.
        top_k: Tokens of a distribution.
        address: None for processes of this machine; or a Ray cluster, which needs the extra
            ``ray``: "local" makes one here, "auto" finds the one of this machine, "HOST:PORT" or
            "ray://HOST:PORT".
        worker_cpus: Threads that a worker computes with, cores that it asks a cluster for. None:
            its share of this machine's, and one in a cluster that runs already.
        **options: Others of ``forwardcache.jobs.session.ModelOptions``: ``device``, ``dtype``,
            ``trace`` (each worker adds its number to the name), ...

    Returns:
        The rows that ``forwardcache score`` writes: one a prompt and view, in order, all
        log-probabilities in nats. A worker that dies is replaced and its work done again.

    Raises:
        InvalidInputError: an argument is out of range, or there is no such cluster.
        MissingExtraError: a cluster was named, and Ray isn't installed.
        InvalidInputError: a view is unknown, or a prompt can't be scored (its number is named).
        WorkerError: workers keep dying, or one failed.
    """
    if op not in of_prompts():
        raise InvalidInputError(f"unknown op {op!r}; there are {', '.join(of_prompts())}")
    adapters: tuple[NamedAdapter, ...] = ()
    if isinstance(adapter, Mapping):
        check_names(list(adapter))
        adapters = tuple(NamedAdapter(*each) for each in adapter.items())
    elif adapter is not None:
        adapters = (NamedAdapter(None, adapter),)
    loading = ModelOptions(model=model, adapters=adapters, **options)
    asked = parse_views(
        views or default_views(adapters),
        has_adapter=bool(adapters),
        adapters=loading.adapter_names,
    )
    source = PromptSet(
        "prompts", tuple(map(_prompt, range(1, len(prompts) + 1), prompts)), sha256=""
    )
    source.items(op)
    with team_for(
        loading, workers=workers, address=address, worker_cpus=worker_cpus, copies=True
    ) as team:
        job = make_job(team, source, op, asked, top_k=top_k)
        return [row for _, rows in TeamScoring(team, job).rows() for row in rows]


def _prompt(number: int, given: str | tuple[str, str]) -> Prompt:
    if isinstance(given, str):
        return Prompt(number, given)
    try:
        text, completion = given
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"expected a text, or a pair of prompt and completion, got {given!r}"
        ) from None
    return Prompt(number, text, completion)


def _lengths(team: Crew[Any], source: PromptSet, op: str) -> list[int | str]:
    """Tokens of each prompt, or why it can't be scored."""
    items = source.items(op)
    starts = range(0, len(items), _LENGTHS)
    results = team.run(
        "lengths",
        len(starts),
        lambda task: packed([op, list(items[starts[task] : starts[task] + _LENGTHS])]),
    )
    return [length for result in results for length in answer(result)]

"""The eight checks of profile ``"seed"``, as the Rust kit for Dynamo's engines has them.

A check yields what it finds, the weightiest first; one that yields nothing has passed.

Source:
    ``dynamo-backend-common`` of NVIDIA Dynamo, module ``testing``: checks, order, names of the
    failures and which of them comes before which.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from forwardcache.conformance.chunk import field_of
from forwardcache.conformance.context import Inert
from forwardcache.conformance.failures import (
    CancellationNotObserved,
    CleanupFailed,
    CleanupWithoutStartFailed,
    ComponentMetricsNotIdempotent,
    ConcurrentGenerateFailed,
    ConformanceFailure,
    EmptyModelInConfig,
    GenerateFailed,
    KvEventSourcesFailed,
    KvEventSourcesNotIdempotent,
    SecondCleanupFailed,
    SetupMetricsFailed,
    StartFailed,
)
from forwardcache.conformance.guard import (
    EngineRaisedError,
    OverdueError,
    all_of,
    bounded,
    call,
    guarded,
    offers,
)
from forwardcache.conformance.judge import cancelled_ending, stream_rules
from forwardcache.conformance.stream import Reception, Stream, receive
from forwardcache.conformance.subject import Subject

__all__ = [
    "Failures",
    "cancellation",
    "cleanup",
    "cleanup_without_start",
    "concurrent_generates",
    "drain_and_abort",
    "kv_event_sources",
    "setup_metrics",
    "single_generate",
    "start",
]

Failures = AsyncGenerator[ConformanceFailure, None]


async def start(subject: Subject) -> Failures:
    """``start`` returns a config with the model's name."""
    try:
        subject.model = await guarded(lambda: _model_of_started(subject))
    except EngineRaisedError as error:
        yield StartFailed(str(error)).due_to(error.__cause__)
        return
    if not subject.model:
        yield EmptyModelInConfig()


async def kv_event_sources(subject: Subject) -> Failures:
    """Two calls give the same ranks in the same order."""
    try:
        same = await guarded(lambda: _same_twice(lambda: _source_ranks(subject.engine)))
    except EngineRaisedError as error:
        yield KvEventSourcesFailed(str(error)).due_to(error.__cause__)
        return
    if not same:
        yield KvEventSourcesNotIdempotent()


async def setup_metrics(subject: Subject) -> Failures:
    """Two calls with one context give the same ranks; nothing is ever published."""
    context = MetricsContext()
    try:
        same = await guarded(lambda: _same_twice(lambda: _metric_ranks(subject.engine, context)))
    except EngineRaisedError as error:
        yield SetupMetricsFailed(str(error)).due_to(error.__cause__)
        return
    if not same:
        yield ComponentMetricsNotIdempotent()


async def single_generate(subject: Subject) -> Failures:
    """One whole stream keeps the rules of a stream."""
    try:
        reception = await subject.collect()
    except EngineRaisedError as error:
        yield GenerateFailed(str(error)).due_to(error.__cause__)
        return
    for failure in stream_rules(reception):
        yield failure


async def concurrent_generates(subject: Subject) -> Failures:
    """Streams that run at once all open and give something; what, is not judged."""
    streams = range(subject.settings.concurrency)
    for error in await all_of(_items_or_error(subject) for _ in streams):
        if error is not None:
            yield ConcurrentGenerateFailed(str(error)).due_to(error.__cause__)


async def cancellation(subject: Subject) -> Failures:
    """A stream stopped before its first chunk ends in time, and as cancelled."""
    context, deadline = subject.context(), subject.settings.cancel_deadline
    try:
        stream, reception = await subject.open(subject.long_request(), context)
        context.stop_generating()
        done = await drain_and_abort(subject, context, stream, reception)
    except EngineRaisedError as error:
        yield GenerateFailed(str(error)).due_to(error.__cause__)
        return
    if not (done and reception.ended_within(deadline)):
        yield CancellationNotObserved(deadline).having(reception.chunks)
        return
    for failure in cancelled_ending(reception):
        yield failure


async def cleanup(subject: Subject) -> Failures:
    """``cleanup`` succeeds, and once more."""
    engine, subject.engine, subject.started = subject.engine, None, False
    for rule in (CleanupFailed, SecondCleanupFailed):
        try:
            await call(engine, "cleanup")
        except EngineRaisedError as error:
            yield rule(str(error)).due_to(error.__cause__)


async def cleanup_without_start(subject: Subject) -> Failures:
    """``cleanup`` succeeds on an engine that never started."""
    try:
        await call(await subject.make(), "cleanup")
    except EngineRaisedError as error:
        yield CleanupWithoutStartFailed(str(error)).due_to(error.__cause__)


@dataclass(frozen=True)
class MetricsContext:
    """What ``setup_metrics`` is given."""

    model: str = "test-model"
    component: str = "test"
    model_load_time_seconds: float = 0.0
    metrics: Any = field(default_factory=Inert)


async def _model_of_started(subject: Subject) -> str:
    return subject.note_config(await subject.engine.start(0))


async def _same_twice(ranks: Callable[[], Awaitable[list[Any]]]) -> bool:
    first, second = await ranks(), await ranks()
    return first == second


async def _source_ranks(engine: Any) -> list[Any]:
    if not offers(engine, "kv_event_sources"):
        return []
    return [_dp_rank(source) for source in await engine.kv_event_sources()]


def _dp_rank(source: Any) -> Any:
    """The rank of one descriptor: attribute, key or method."""
    missing = object()
    rank = field_of(source, "dp_rank", missing)
    if rank is missing:
        raise TypeError(f"{source!r:.80} has no dp_rank")
    return rank() if callable(rank) else rank


async def _metric_ranks(engine: Any, context: MetricsContext) -> list[Any]:
    """No offer, no bindings and None for the ranks all mean no ranks."""
    if offers(engine, "setup_metrics"):
        bindings = await engine.setup_metrics(context)
        if bindings is not None:
            return _listed(field_of(bindings, "dp_ranks"))
    if offers(engine, "component_metrics_dp_ranks"):
        return _listed(engine.component_metrics_dp_ranks())
    return []


def _listed(ranks: Iterable[Any] | None) -> list[Any]:
    return [] if ranks is None else list(ranks)


async def _items_or_error(subject: Subject) -> EngineRaisedError | None:
    try:
        reception = await subject.collect()
    except EngineRaisedError as error:
        return error
    return None if reception.chunks else EngineRaisedError("a stream was empty")


async def drain_and_abort(
    subject: Subject, context: Any, stream: Stream, reception: Reception
) -> bool:
    """Drain, and abort at the same time as a server would; whether both were done in time.

    Raises:
        EngineRaisedError: ``abort`` raised.
    """
    aborted: list[str | None] = []

    async def abort() -> None:
        aborted.append(await subject.abort(context))

    with suppress(OverdueError):
        works = all_of([receive(stream, reception), abort()])
        await bounded(works, subject.settings.cancel_deadline)
    if any(aborted):
        raise EngineRaisedError(f"abort() raised {aborted[0]}")
    return bool(aborted)

"""Streams that end before their time: stopped midway or while they open, or left by the reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from forwardcache.conformance.chunk import Chunk
from forwardcache.conformance.failures import (
    CancelWhileOpeningFailed,
    MidStreamCancellationIgnored,
    WaiterCancellationSwallowed,
)
from forwardcache.conformance.guard import (
    EngineRaisedError,
    OverdueError,
    all_of,
    bounded,
    own_task,
    release,
)
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.stream import Reception, Stream, close, receive
from forwardcache.conformance.strict.ask import collected, serving_fault
from forwardcache.conformance.subject import CheckSkippedError, Subject

__all__ = [
    "Stopped",
    "cancel_while_opening",
    "cancelled_waiter",
    "mid_stream_cancellation",
    "not_cancelled",
    "stopped_after_first",
]

_TOO_SOON_S = 0.02
"""A stream as short as the engine's context may be over before its stop can be seen."""

_TRIES = 3
"""How often a chunk may have come at the very moment at which its waiter was cancelled."""

_PATIENCE = 10


@dataclass(frozen=True)
class Stopped:
    """A stream that was stopped after its first chunk; ``at`` is None where none came."""

    reception: Reception
    at: float | None


async def mid_stream_cancellation(subject: Subject) -> Failures:
    """A stream stopped after its first chunk ends in time, and as cancelled."""
    stopped = await stopped_after_first(subject)
    chunks = stopped.reception.chunks
    if stopped.at is None or chunks[0].terminal:
        raise CheckSkippedError("the stream was over before it could be stopped")
    if _used_its_context_up(subject, stopped.reception, stopped.at):
        raise CheckSkippedError(
            f"the stream filled the engine's context of {subject.context_length} tokens "
            "before a stop could be seen"
        )
    fault = not_cancelled(stopped.reception, stopped.at, subject.settings.cancel_deadline)
    if fault is not None:
        yield MidStreamCancellationIgnored(fault).having(chunks)


async def cancel_while_opening(subject: Subject) -> Failures:
    """A request stopped while ``generate`` is opening ends in time, and as cancelled."""
    opened: list[Reception] = []
    fault = await _opening_fault(subject, opened)
    if fault is not None:
        chunks = opened[0].chunks if opened else []
        yield CancelWhileOpeningFailed(fault).having(chunks)


async def cancelled_waiter(subject: Subject) -> Failures:
    """The cancellation of a task that waits for a chunk stays one, and the engine goes on serving.

    A server cancels that task when its client has gone. An engine that ends the stream instead, as
    if the model had, hands a cut answer to whoever logs or keeps it.
    """
    began = time.monotonic()
    await collected(subject)
    patience = subject.settings.cancel_deadline + _PATIENCE * (time.monotonic() - began)
    for received in (0, 1):
        stream, reception = await _long_stream(subject)
        iterator = aiter(stream)
        try:
            for _ in range(received):
                await _take(iterator, reception)
            fault = await _waiter_fault(subject, iterator, reception)
        finally:
            await close(iterator, stream, reception)
        if fault is not None:
            yield WaiterCancellationSwallowed(fault).having(reception.chunks)
    fault = await serving_fault(subject, patience)
    if fault is not None:
        yield WaiterCancellationSwallowed(f"was not the last: {fault}")


async def stopped_after_first(subject: Subject) -> Stopped:
    """A long stream, stopped after its first chunk and given the deadline to end.

    Raises:
        CheckSkippedError: it can't be opened, and another check says so.
    """
    context, stopped = subject.context(), asyncio.Event()
    stream, reception = await _long_stream(subject, context)
    receiving = own_task(receive(stream, reception, on_first=stopped.set))
    return Stopped(reception, await _stop_once(subject, context, stopped, receiving))


async def _long_stream(subject: Subject, context: Any = None) -> tuple[Stream, Reception]:
    try:
        return await subject.open(subject.long_request(), context)
    except EngineRaisedError as error:
        raise CheckSkippedError(f"no stream to stop: generate() failed: {error}") from error


def not_cancelled(reception: Reception, since: float, deadline: float) -> str | None:
    """Why ``reception`` did not end as cancelled within ``deadline`` of ``since``."""
    if reception.ended_at is None or reception.ended_at - since > deadline:
        return f"did not end within {deadline:g} s"
    if not reception.chunks:
        return "ended without a single chunk"
    last = reception.chunks[-1]
    if last.error is not None:
        return f"raised {last.error}"
    return None if last.cancelled else f"ended with finish_reason {last.finish_reason!r}"


def _used_its_context_up(subject: Subject, reception: Reception, since: float) -> bool:
    """Whether the stream was as long as the context allows, and over almost at once."""
    if reception.ended_at is None or reception.ended_at - since > _TOO_SOON_S:
        return False
    return subject.context_length is not None and len(reception.tokens) >= subject.room()


async def _stop_once(
    subject: Subject, context: Any, stopped: asyncio.Event, receiving: asyncio.Task[None]
) -> float | None:
    """Stop when the first chunk has come; the time of it."""
    waiting = own_task(stopped.wait())
    tasks: list[asyncio.Task[Any]] = [receiving, waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.is_set():
            return None
        context.stop_generating()
        at = time.monotonic()
        tasks.append(own_task(subject.abort(context)))
        await asyncio.wait([receiving], timeout=subject.settings.cancel_deadline)
        return at
    finally:
        await release(tasks)


async def _opening_fault(subject: Subject, opened: list[Reception]) -> str | None:
    """What is wrong with a request that is stopped while it opens.

    Raises:
        CheckSkippedError: it opened at once, and its stream was over as soon, by itself.
    """
    deadline, began = subject.settings.cancel_deadline, time.monotonic()
    at_once: list[bool] = []
    try:
        with suppress(OverdueError):
            await bounded(_open_and_stop(subject, opened, at_once), deadline)
    except EngineRaisedError as error:
        return f"made generate() raise {error}"
    if not opened:
        return f"was not opened within {deadline:g} s"
    if at_once == [True] and _over_by_itself(opened[0].chunks):
        raise CheckSkippedError("generate() opened, and its stream was over, at once")
    return not_cancelled(opened[0], began, deadline)


def _over_by_itself(chunks: list[Chunk]) -> bool:
    return bool(chunks) and chunks[0].terminal and not chunks[0].cancelled


async def _open_and_stop(subject: Subject, opened: list[Reception], at_once: list[bool]) -> None:
    context = subject.context()

    async def serve() -> None:
        stream, reception = await subject.open(subject.long_request(), context)
        opened.append(reception)
        await receive(stream, reception)

    async def stop() -> None:
        # One turn of the loop: `generate` has begun, and waits if it is one that waits.
        await asyncio.sleep(0)
        at_once.append(bool(opened))
        context.stop_generating()
        await subject.abort(context)

    await all_of([serve(), stop()])


async def _waiter_fault(
    subject: Subject, iterator: AsyncIterator[Any], reception: Reception
) -> str | None:
    """What became of the cancellation of a task that waits for the next item.

    A chunk may have come at that very moment, so one that comes is no fault before it has come
    every time.
    """
    given = 0
    for _ in range(_TRIES):
        if not _goes_on(reception):
            return None
        waiting = own_task(_take(iterator, reception))
        # One turn of the loop: the task has begun, and stands where the engine lets it wait.
        await asyncio.sleep(0)
        if waiting.done():
            continue
        waiting.cancel()
        await asyncio.wait([waiting], timeout=subject.settings.cancel_deadline)
        if not waiting.done():
            await release([waiting])
            return f"went on waiting for {subject.settings.cancel_deadline:g} s"
        if waiting.cancelled() or not _goes_on(reception):
            return None if waiting.cancelled() else _ending_fault(reception)
        given += 1
    return "gave another chunk, each time" if given == _TRIES else None


async def _take(iterator: AsyncIterator[Any], reception: Reception) -> None:
    try:
        reception.add(await anext(iterator))
    except StopAsyncIteration:
        reception.ended_at = time.monotonic()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        reception.add_error(error)


def _goes_on(reception: Reception) -> bool:
    """Whether the stream has neither ended nor raised, and sent no terminal chunk."""
    over = any(chunk.terminal or chunk.error is not None for chunk in reception.chunks)
    return reception.ended_at is None and not over


def _ending_fault(reception: Reception) -> str | None:
    """Why the stream looks whole; an error and a chunk that says cancelled do not."""
    last = reception.chunks[-1] if reception.chunks else None
    if last is None or not (last.terminal or last.error is not None):
        return "ended as if nothing were to come"
    if last.error is not None or last.cancelled:
        return None
    return f"ended with finish_reason {last.finish_reason!r}"

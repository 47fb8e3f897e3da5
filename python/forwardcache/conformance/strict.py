"""What profile ``"strict"`` adds: rules that a server relies on and the seed does not look at.

Every check opens its own streams, so that each can be run alone. Where an engine can't be judged
by a rule, the check is skipped and says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from forwardcache.conformance.failures import (
    CancelWhileOpeningFailed,
    CleanupAfterFailedStartFailed,
    ConcurrentStreamInvalid,
    ConformanceFailure,
    CrossTalk,
    DroppedStreamLeaked,
    EventLoopBlocked,
    GenerateFailed,
    InvalidTokenIds,
    LeftBehind,
    MidStreamCancellationIgnored,
    NeighbourDisturbed,
    UsageInvalid,
)
from forwardcache.conformance.guard import (
    EngineRaisedError,
    OverdueError,
    all_of,
    bounded,
    call,
    own_task,
    release,
)
from forwardcache.conformance.judge import stream_rules, usage_contradiction
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.stream import Reception, receive
from forwardcache.conformance.subject import (
    LONG_MAX_TOKENS,
    CheckSkippedError,
    Residue,
    Subject,
    made_by,
    residue,
)

__all__ = [
    "cancel_while_opening",
    "cleanup_after_failed_start",
    "concurrent_streams",
    "cross_talk",
    "dropped_streams",
    "event_loop",
    "left_behind",
    "mid_stream_cancellation",
    "neighbours",
    "token_ids",
    "usage",
]

_PROMPTS = ((1, 2, 3), (2, 3, 1), (3, 1, 2), (1, 3, 2), (3, 2, 1), (2, 1, 3))
"""Different requests from the same ids, so that they are in any vocabulary that has the first."""

_BEAT_S = 0.01
_LOOKS = 3
_SETTLE_S = 1.0
_SETTLE_STEP_S = 0.01

T = TypeVar("T")


async def token_ids(subject: Subject) -> Failures:
    """Every token id is an int."""
    reception = await _collected(subject)
    for value in reception.tokens:
        if not isinstance(value, int) or isinstance(value, bool):
            yield InvalidTokenIds(repr(value)).having(reception.chunks)
            return


async def usage(subject: Subject) -> Failures:
    """A terminal chunk's numbers agree with each other, and with a cancelled stream's tokens."""
    whole, stopped = await _collected(subject), await _stopped_after_first(subject)
    for reception in (whole, stopped.reception):
        contradiction = usage_contradiction(reception.chunks)
        if contradiction is not None:
            yield UsageInvalid(contradiction).having(reception.chunks)


async def mid_stream_cancellation(subject: Subject) -> Failures:
    """A stream stopped after its first chunk ends in time, and as cancelled."""
    stopped = await _stopped_after_first(subject)
    chunks = stopped.reception.chunks
    if stopped.at is None or chunks[0].terminal:
        raise CheckSkippedError("the stream was over before it could be stopped")
    fault = _not_cancelled(stopped.reception, stopped.at, subject.settings.cancel_deadline)
    if fault is not None:
        yield MidStreamCancellationIgnored(fault).having(chunks)


async def cancel_while_opening(subject: Subject) -> Failures:
    """A request stopped while ``generate`` is opening ends in time, and as cancelled."""
    opened: list[Reception] = []
    fault = await _opening_fault(subject, opened)
    if fault is not None:
        chunks = opened[0].chunks if opened else []
        yield CancelWhileOpeningFailed(fault).having(chunks)


async def concurrent_streams(subject: Subject) -> Failures:
    """Streams that run at once keep the rules that a single stream keeps."""
    outcomes = await all_of(_outcome(subject) for _ in range(subject.settings.concurrency))
    for index, outcome in enumerate(outcomes):
        for failure in _broken(outcome):
            yield ConcurrentStreamInvalid(index, failure).having(failure.chunks)


async def cross_talk(subject: Subject) -> Failures:
    """Different requests that run at once each get the tokens that they get alone."""
    prompts = _prompts(subject.settings.concurrency)
    alone = [await _alone(subject, prompt) for prompt in prompts]
    if all(solo.tokens is None for solo in alone):
        raise CheckSkippedError("the same request gave other tokens when it was asked again")
    outcomes = await all_of(_outcome(subject, subject.request(prompt)) for prompt in prompts)
    for index, (solo, outcome) in enumerate(zip(alone, outcomes, strict=True)):
        if solo.tokens is None or isinstance(outcome, EngineRaisedError):
            continue
        if outcome.tokens != solo.tokens:
            yield CrossTalk(index, solo.tokens, outcome.tokens).having(outcome.chunks)


async def neighbours(subject: Subject) -> Failures:
    """Streams that run while one is cancelled go on as if nothing had happened."""
    prompts = _prompts(max(1, subject.settings.concurrency - 1))
    alone = [await _alone(subject, prompt) for prompt in prompts]
    outcomes = await _beside_a_victim(subject, prompts)
    for index, (solo, outcome) in enumerate(zip(alone, outcomes, strict=True)):
        fault = _disturbance(solo, outcome)
        if fault is not None:
            chunks = [] if isinstance(outcome, EngineRaisedError) else outcome.chunks
            yield NeighbourDisturbed(index, fault).having(chunks)


async def dropped_streams(subject: Subject) -> Failures:
    """Streams dropped after one chunk leave nothing in flight, and the engine serving."""
    began = time.monotonic()
    await _collected(subject)
    patience = subject.settings.cancel_deadline + 10 * (time.monotonic() - began)
    before, counted = residue(), _in_flight(subject.engine)
    for _ in range(subject.settings.concurrency):
        fault = await _drop_fault(subject, patience)
        if fault is not None:
            yield DroppedStreamLeaked(fault)
            return
    async for fault in _traces_of_drops(subject, before, counted):
        yield DroppedStreamLeaked(fault)
    fault = await _serving_fault(subject, patience)
    if fault is not None:
        yield DroppedStreamLeaked(fault)


async def event_loop(subject: Subject) -> Failures:
    """Nothing keeps the event loop from running while streams are served.

    The shortest of several looks counts: a busy machine holds the loop up now and then, an engine
    that blocks it does so every time.
    """
    took = min([await _longest_gap(subject) for _ in range(_LOOKS)])
    if took > subject.settings.block_limit:
        yield EventLoopBlocked(took)


async def left_behind(subject: Subject) -> Failures:
    """After ``cleanup`` no task and no non-daemon thread is left."""
    before = subject.before or Residue()
    left = await _settled(lambda: residue().since(before), _SETTLE_S)
    if left:
        yield LeftBehind(left.task_names(), left.thread_names())


async def cleanup_after_failed_start(subject: Subject) -> Failures:
    """``cleanup`` succeeds on an engine whose ``start`` raised."""
    if subject.settings.failing_factory is None:
        raise CheckSkippedError("needs failing_factory=, a factory of engines that fail to start")
    engine = await made_by(subject.settings.failing_factory)
    started = await _starts(engine)
    try:
        await call(engine, "cleanup")
    except EngineRaisedError as error:
        yield CleanupAfterFailedStartFailed(str(error)).due_to(error.__cause__)
    if started:
        raise CheckSkippedError("the engine of failing_factory started")


@dataclass(frozen=True)
class _Alone:
    """What a request gives alone; the tokens are None where two runs gave different ones."""

    tokens: tuple[Any, ...] | None
    cancelled: bool


@dataclass(frozen=True)
class _Stopped:
    """A stream that was stopped after its first chunk; ``at`` is None where none came."""

    reception: Reception
    at: float | None


Outcome = Reception | EngineRaisedError


async def _collected(subject: Subject, request: dict[str, Any] | None = None) -> Reception:
    """One short stream that keeps the rules of the seed.

    Raises:
        CheckSkippedError: it does not, and another check says so.
    """
    outcome = await _outcome(subject, request)
    for failure in _broken(outcome):
        raise CheckSkippedError(f"no stream to judge: {failure.message_line}")
    assert isinstance(outcome, Reception)
    return outcome


async def _outcome(subject: Subject, request: dict[str, Any] | None = None) -> Outcome:
    try:
        return await subject.collect(request)
    except EngineRaisedError as error:
        return error


def _broken(outcome: Outcome) -> Iterator[ConformanceFailure]:
    if isinstance(outcome, EngineRaisedError):
        yield GenerateFailed(str(outcome)).due_to(outcome.__cause__)
    else:
        yield from stream_rules(outcome)


def _prompts(count: int) -> list[tuple[int, ...]]:
    return [_PROMPTS[index % len(_PROMPTS)] for index in range(count)]


async def _alone(subject: Subject, prompt: tuple[int, ...]) -> _Alone:
    """What ``prompt`` gives alone, asked for once a subject."""
    if prompt not in subject.alone:
        first, second = [await _collected(subject, subject.request(prompt)) for _ in range(2)]
        tokens = first.tokens if first.tokens == second.tokens else None
        cancelled = any(reception.chunks[-1].cancelled for reception in (first, second))
        subject.alone[prompt] = _Alone(tokens, cancelled)
    alone: _Alone = subject.alone[prompt]
    return alone


async def _stopped_after_first(subject: Subject) -> _Stopped:
    """A long stream, stopped after its first chunk and given the deadline to end.

    Raises:
        CheckSkippedError: it can't be opened, and another check says so.
    """
    context, stopped = subject.context(), asyncio.Event()
    try:
        request = subject.request(max_tokens=LONG_MAX_TOKENS)
        stream, reception = await subject.open(request, context)
    except EngineRaisedError as error:
        raise CheckSkippedError(f"no stream to stop: generate() failed: {error}") from error
    receiving = own_task(receive(stream, reception, on_first=stopped.set))
    return _Stopped(reception, await _stop_once(subject, context, stopped, receiving))


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


def _not_cancelled(reception: Reception, since: float, deadline: float) -> str | None:
    """Why ``reception`` did not end as cancelled within ``deadline`` of ``since``."""
    if reception.ended_at is None or reception.ended_at - since > deadline:
        return f"did not end within {deadline:g} s"
    if not reception.chunks:
        return "ended without a single chunk"
    last = reception.chunks[-1]
    if last.error is not None:
        return f"raised {last.error}"
    return None if last.cancelled else f"ended with finish_reason {last.finish_reason!r}"


async def _opening_fault(subject: Subject, opened: list[Reception]) -> str | None:
    """What is wrong with a request that is stopped while it opens.

    Raises:
        CheckSkippedError: it opened at once, and its stream was over as soon.
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
    if at_once == [True] and opened[0].chunks and opened[0].chunks[0].terminal:
        raise CheckSkippedError("generate() opened, and its stream was over, at once")
    return _not_cancelled(opened[0], began, deadline)


async def _open_and_stop(subject: Subject, opened: list[Reception], at_once: list[bool]) -> None:
    context = subject.context()

    async def serve() -> None:
        request = subject.request(max_tokens=LONG_MAX_TOKENS)
        stream, reception = await subject.open(request, context)
        opened.append(reception)
        await receive(stream, reception)

    async def stop() -> None:
        # One turn of the loop: `generate` has begun, and waits if it is one that waits.
        await asyncio.sleep(0)
        at_once.append(bool(opened))
        context.stop_generating()
        await subject.abort(context)

    await all_of([serve(), stop()])


async def _beside_a_victim(subject: Subject, prompts: list[tuple[int, ...]]) -> list[Outcome]:
    victim = own_task(_stopped_after_first(subject))
    try:
        return await all_of(_outcome(subject, subject.request(prompt)) for prompt in prompts)
    finally:
        await asyncio.wait([victim], timeout=subject.settings.cancel_deadline)
        await release([victim])


def _disturbance(alone: _Alone, outcome: Outcome) -> str | None:
    for failure in _broken(outcome):
        return failure.message_line
    assert isinstance(outcome, Reception)
    if outcome.chunks[-1].cancelled and not alone.cancelled:
        return "it was cancelled too"
    if alone.tokens not in (None, outcome.tokens):
        return f"it gave {outcome.tokens}, and {alone.tokens} alone"
    return None


async def _drop_fault(subject: Subject, patience: float) -> str | None:
    """Drop one stream after its first chunk; what went wrong."""
    request = subject.request(max_tokens=LONG_MAX_TOKENS)
    try:
        reception = await bounded(subject.collect(request, take=1), patience)
    except OverdueError:
        return f"the next stream gave no chunk, or could not be closed, within {patience:.3g} s"
    except EngineRaisedError as error:
        return f"the next generate() failed: {error}"
    if reception.close_error is not None:
        return f"closing the stream raised {reception.close_error}"
    return None


async def _traces_of_drops(
    subject: Subject, before: Residue, counted: int | None
) -> AsyncIterator[str]:
    seconds = subject.settings.cancel_deadline
    left = await _settled(lambda: residue().since(before).tasks, seconds)
    if left:
        yield f"tasks {Residue(left).task_names()}"
    if await _settled(lambda: _in_flight(subject.engine) != counted, seconds):
        yield f"in_flight was {counted} before and is {_in_flight(subject.engine)}"


async def _serving_fault(subject: Subject, patience: float) -> str | None:
    try:
        outcome = await bounded(_outcome(subject), patience)
    except OverdueError:
        return f"no stream was served within {patience:.3g} s afterwards"
    for failure in _broken(outcome):
        return f"the stream served afterwards: {failure.message_line}"
    return None


def _in_flight(engine: Any) -> int | None:
    """What the engine counts itself, where it has ``in_flight`` as attribute or method."""
    counted = getattr(engine, "in_flight", None)
    counted = counted() if callable(counted) else counted
    return counted if isinstance(counted, int) else None


async def _longest_gap(subject: Subject) -> float:
    gaps: list[float] = [0.0]
    beating = own_task(_beat(gaps))
    try:
        await all_of([_outcome(subject), _outcome(subject)])
        await asyncio.sleep(_BEAT_S)
    finally:
        await release([beating])
    return max(gaps)


async def _beat(gaps: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(_BEAT_S)
        gaps.append(time.monotonic() - began - _BEAT_S)


async def _starts(engine: Any) -> bool:
    try:
        await call(engine, "start", 0)
    except EngineRaisedError:
        return False
    return True


async def _settled(look: Callable[[], T], seconds: float) -> T:
    """What ``look`` gives once it is false, or when ``seconds`` are over."""
    until = time.monotonic() + seconds
    while (seen := look()) and time.monotonic() < until:
        await asyncio.sleep(_SETTLE_STEP_S)
    return seen

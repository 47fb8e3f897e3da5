"""What is left: of dropped streams, of an engine that was cleaned up, of the loop's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from forwardcache.conformance.failures import (
    CleanupAfterFailedStartFailed,
    DroppedStreamLeaked,
    EventLoopBlocked,
    LeftBehind,
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
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.strict.ask import collected, outcome_of, serving_fault, settled
from forwardcache.conformance.subject import (
    CheckSkippedError,
    Residue,
    Subject,
    made_by,
    residue,
)

__all__ = ["cleanup_after_failed_start", "dropped_streams", "event_loop", "left_behind"]

_BEAT_S = 0.01
_LOOKS = 3
_SETTLE_S = 1.0


async def dropped_streams(subject: Subject) -> Failures:
    """Streams dropped after one chunk leave nothing in flight, and the engine serving."""
    began = time.monotonic()
    await collected(subject)
    patience = subject.settings.cancel_deadline + 10 * (time.monotonic() - began)
    before, counted = residue(), _in_flight(subject.engine)
    for _ in range(subject.settings.concurrency):
        fault = await _drop_fault(subject, patience)
        if fault is not None:
            yield DroppedStreamLeaked(fault)
            return
    async for fault in _traces_of_drops(subject, before, counted):
        yield DroppedStreamLeaked(fault)
    fault = await serving_fault(subject, patience)
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
    left = await settled(lambda: residue().since(before), _SETTLE_S)
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


async def _drop_fault(subject: Subject, patience: float) -> str | None:
    """Drop one stream after its first chunk; what went wrong."""
    try:
        reception = await bounded(subject.collect(subject.long_request(), take=1), patience)
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
    left = await settled(lambda: residue().since(before).tasks, seconds)
    if left:
        yield f"tasks {Residue(left).task_names()}"
    if await settled(lambda: _in_flight(subject.engine) != counted, seconds):
        yield f"in_flight was {counted} before and is {_in_flight(subject.engine)}"


def _in_flight(engine: Any) -> int | None:
    """What the engine counts itself, where it has ``in_flight`` as attribute or method."""
    counted = getattr(engine, "in_flight", None)
    counted = counted() if callable(counted) else counted
    return counted if isinstance(counted, int) else None


async def _longest_gap(subject: Subject) -> float:
    gaps: list[float] = [0.0]
    beating = own_task(_beat(gaps))
    try:
        await all_of([outcome_of(subject), outcome_of(subject)])
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

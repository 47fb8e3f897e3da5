"""Streams as the strict checks get them: whole, alone, or with what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from forwardcache.conformance.failures import ConformanceFailure, GenerateFailed
from forwardcache.conformance.guard import EngineRaisedError, OverdueError, bounded
from forwardcache.conformance.judge import stream_rules
from forwardcache.conformance.stream import Reception
from forwardcache.conformance.strict.prompts import LONGEST, SHORTEST
from forwardcache.conformance.subject import CheckSkippedError, Subject

__all__ = [
    "Alone",
    "Outcome",
    "alone",
    "broken",
    "collected",
    "outcome_of",
    "prompt_length",
    "serving_fault",
    "settled",
    "usual_limit",
]

_SHORT_LIMIT = 8

_SETTLE_STEP_S = 0.01

T = TypeVar("T")
Outcome = Reception | EngineRaisedError


@dataclass(frozen=True)
class Alone:
    """What a request gives alone; the tokens are None where two runs gave different ones."""

    tokens: tuple[Any, ...] | None
    cancelled: bool


async def collected(subject: Subject, request: dict[str, Any] | None = None) -> Reception:
    """One short stream that keeps the rules of the seed.

    Raises:
        CheckSkippedError: it does not, and another check says so.
    """
    outcome = await outcome_of(subject, request)
    for failure in broken(outcome):
        raise CheckSkippedError(f"no stream to judge: {failure.message_line}")
    assert isinstance(outcome, Reception)
    return outcome


async def outcome_of(subject: Subject, request: dict[str, Any] | None = None) -> Outcome:
    """One stream, or why it could not be opened."""
    try:
        return await subject.collect(request)
    except EngineRaisedError as error:
        return error


def broken(outcome: Outcome) -> Iterator[ConformanceFailure]:
    """The rules of the seed that ``outcome`` breaks."""
    if isinstance(outcome, EngineRaisedError):
        yield GenerateFailed(str(outcome)).due_to(outcome.__cause__)
    else:
        yield from stream_rules(outcome)


async def alone(subject: Subject, prompt: tuple[int, ...]) -> Alone:
    """What ``prompt`` gives alone, asked for once a subject."""
    if prompt not in subject.alone:
        first, second = [await collected(subject, subject.request(prompt)) for _ in range(2)]
        tokens = first.tokens if first.tokens == second.tokens else None
        cancelled = any(reception.chunks[-1].cancelled for reception in (first, second))
        subject.alone[prompt] = Alone(tokens, cancelled)
    known: Alone = subject.alone[prompt]
    return known


def prompt_length(subject: Subject, times: int = 1) -> int:
    """Ids of the long prompts: as many as the context leaves beside an answer.

    Args:
        subject: The engine.
        times: How often the context has to hold such a prompt.
    """
    if subject.context_length is None:
        return LONGEST
    left = subject.context_length - usual_limit(subject)
    return max(SHORTEST, min(LONGEST, left // times))


def usual_limit(subject: Subject) -> int:
    """Tokens of an answer, also where the settings name no limit."""
    return subject.settings.max_tokens or _SHORT_LIMIT


async def serving_fault(subject: Subject, patience: float) -> str | None:
    """Why a short stream is not served any more; None where it is."""
    try:
        outcome = await bounded(outcome_of(subject), patience)
    except OverdueError:
        return f"no stream was served within {patience:.3g} s afterwards"
    for failure in broken(outcome):
        return f"the stream served afterwards: {failure.message_line}"
    return None


async def settled(look: Callable[[], T], seconds: float) -> T:
    """What ``look`` gives once it is false, or when ``seconds`` are over."""
    until = time.monotonic() + seconds
    while (seen := look()) and time.monotonic() < until:
        await asyncio.sleep(_SETTLE_STEP_S)
    return seen

"""The checks of profiles ``"encode"`` and ``"raw"``: encoders, and engines of raw media.

An encoder takes a request with media and hands over one terminal chunk: no tokens, and an object
``encoder_result``. A raw engine takes and sends JSON objects of its own, which are not looked into:
it opens, streams, serves several at once, and ends soon after a stop.

Source:
    ``dynamo-backend-common`` 1.6.1 of NVIDIA Dynamo (commit 0d9c24a8), module ``testing``: checks,
    order, names of the failures and which of them comes before which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forwardcache.conformance.chunk import Chunk
from forwardcache.conformance.failure import ConformanceFailure
from forwardcache.conformance.failures import (
    CancellationNotObserved,
    ConcurrentGenerateFailed,
    GenerateFailed,
    NoChunksYielded,
    StreamYieldedError,
)
from forwardcache.conformance.guard import EngineRaisedError, all_of
from forwardcache.conformance.judge import cancelled_ending
from forwardcache.conformance.media_failures import (
    EncodeChunkCount,
    EncoderResultExpectedObject,
    EncodeTerminalExpected,
    EncodeTokensNotEmpty,
    EncodeUsageMismatch,
    RawEngineAdvertisedLlmRegistration,
)
from forwardcache.conformance.seed import Failures, drain_and_abort, start
from forwardcache.conformance.stream import Reception
from forwardcache.conformance.subject import PROMPT, Subject

__all__ = [
    "encode_cancellation",
    "encode_concurrent_generates",
    "encode_generate",
    "raw_cancellation",
    "raw_concurrent_generates",
    "raw_generate",
    "raw_start",
]

_IMAGE = "data:image/png;base64,AA=="
_LONG_STEPS = 100_000


async def encode_generate(subject: Subject) -> Failures:
    """One request with media gives one chunk, as an encoder sends it."""
    try:
        reception = await subject.collect(_encode_request(subject))
    except EngineRaisedError as error:
        yield GenerateFailed(str(error)).due_to(error.__cause__)
        return
    for failure in _encode_rules(reception):
        yield failure


async def encode_concurrent_generates(subject: Subject) -> Failures:
    """Requests that are encoded at once all give one chunk, as an encoder sends it."""
    for outcome in await all_of(
        _received(subject, _encode_request(subject)) for _ in range(subject.settings.concurrency)
    ):
        if isinstance(outcome, EngineRaisedError):
            yield ConcurrentGenerateFailed(str(outcome)).due_to(outcome.__cause__)
        else:
            for failure in _encode_rules(outcome):
                yield failure


async def encode_cancellation(subject: Subject) -> Failures:
    """An encoding stopped before its chunk was asked for ends in time, and as cancelled."""
    deadline = subject.settings.cancel_deadline
    try:
        done, reception = await _stopped_at_once(subject, _encode_request(subject))
    except EngineRaisedError as error:
        yield GenerateFailed(str(error)).due_to(error.__cause__)
        return
    if not done:
        yield CancellationNotObserved(deadline).having(reception.chunks)
        return
    for failure in cancelled_ending(reception):
        yield failure


async def raw_start(subject: Subject) -> Failures:
    """``start`` returns a config with a name and without ``llm``."""
    failed = False
    async for failure in start(subject):
        failed = True
        yield failure
    if not failed and subject.registers_tokens:
        yield RawEngineAdvertisedLlmRegistration()


async def raw_generate(subject: Subject) -> Failures:
    """One whole stream has an item, and raises nothing."""
    try:
        reception = await subject.collect(_raw_request(), read=_whatever)
    except EngineRaisedError as error:
        yield GenerateFailed(str(error)).due_to(error.__cause__)
        return
    if not reception.chunks:
        yield NoChunksYielded()
    elif reception.raised is not None:
        failure = StreamYieldedError(str(reception.chunks[-1].error)).due_to(reception.raised)
        yield failure.having(reception.chunks)


async def raw_concurrent_generates(subject: Subject) -> Failures:
    """Streams that run at once all open and give something; what, is not judged."""
    for outcome in await all_of(
        _received(subject, _raw_request(), read=_whatever)
        for _ in range(subject.settings.concurrency)
    ):
        if isinstance(outcome, EngineRaisedError):
            yield ConcurrentGenerateFailed(str(outcome)).due_to(outcome.__cause__)
        elif not outcome.chunks:
            yield ConcurrentGenerateFailed("a stream was empty")


async def raw_cancellation(subject: Subject) -> Failures:
    """A stream stopped before its first item was asked for ends in time, however it ends."""
    try:
        request = _raw_request(steps=_LONG_STEPS)
        done, reception = await _stopped_at_once(subject, request, read=_whatever)
    except EngineRaisedError as error:
        yield GenerateFailed(str(error)).due_to(error.__cause__)
        return
    if not done:
        deadline = subject.settings.cancel_deadline
        yield CancellationNotObserved(deadline).having(reception.chunks)


def _encode_request(subject: Subject) -> dict[str, Any]:
    return {
        **subject.request(),
        "multi_modal_data": {"image": [{"Url": _IMAGE}]},
        "mm_processor_kwargs": {"min_pixels": 64},
    }


def _raw_request(steps: int | None = None) -> dict[str, Any]:
    return {"prompt": "ping"} if steps is None else {"prompt": "ping", "steps": steps}


async def _received(
    subject: Subject, request: dict[str, Any], **how: Any
) -> Reception | EngineRaisedError:
    try:
        return await subject.collect(request, **how)
    except EngineRaisedError as error:
        return error


async def _stopped_at_once(
    subject: Subject, request: dict[str, Any], **how: Any
) -> tuple[bool, Reception]:
    """A stream stopped before its first item is asked for, and whether it ended in time.

    Raises:
        EngineRaisedError: it could not be opened, or ``abort`` raised.
    """
    context = subject.context()
    stream, reception = await subject.open(request, context, **how)
    context.stop_generating()
    done = await drain_and_abort(subject, context, stream, reception)
    return done and reception.ended_within(subject.settings.cancel_deadline), reception


def _encode_rules(reception: Reception) -> Iterator[ConformanceFailure]:
    chunks = reception.chunks
    if len(chunks) != 1:
        yield EncodeChunkCount(len(chunks)).having(chunks)
    elif chunks[0].error is not None:
        yield StreamYieldedError(chunks[0].error).having(chunks).due_to(reception.raised)
    else:
        for failure in _chunk_rules(chunks[0]):
            yield failure.having(chunks)


def _chunk_rules(chunk: Chunk) -> Iterator[ConformanceFailure]:
    if chunk.finish_reason != "stop":
        yield EncodeTerminalExpected(chunk.finish_reason)
    if chunk.token_ids:
        yield EncodeTokensNotEmpty(len(chunk.token_ids))
    if not isinstance(chunk.encoder_result, Mapping):
        yield EncoderResultExpectedObject()
    usage = chunk.usage
    if usage is not None:
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
        if counts != (len(PROMPT), 0, len(PROMPT)):
            yield EncodeUsageMismatch(len(PROMPT), *counts)


def _whatever(item: Any, at: float) -> Chunk:
    """An item of a raw stream, which is not looked into."""
    return Chunk(at)

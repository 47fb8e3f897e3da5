"""Receives one stream: every item copied on receipt, the stream always closed.

Whatever the engine raises, of whatever kind, becomes the stream's last item.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from forwardcache.conformance.chunk import Chunk, read_chunk
from forwardcache.conformance.guard import (
    EngineRaisedError,
    OverdueError,
    bounded,
    call,
    describe,
    guarded,
    is_released,
    offers,
)

__all__ = ["Reception", "Stream", "close", "open_stream", "receive", "receive_within"]

Stream = AsyncIterable[Any]
_CROWD = 100_000
_CROWD_PAUSE_S = 0.001


class Reception:
    """What came out of one stream.

    Attributes:
        chunks: The items in order, an error as the last.
        opened_at: When ``generate`` returned, in the seconds of ``time.monotonic``.
        ended_at: When the stream ended or raised; None while it goes on or was dropped.
        raised: The exception behind the last error.
        close_error: What closing the stream raised.

    Args:
        read: Makes a chunk of an item and the seconds after which it came.
    """

    def __init__(self, read: Callable[[Any, float], Chunk] = read_chunk) -> None:
        self._read = read
        self.chunks: list[Chunk] = []
        self.opened_at = time.monotonic()
        self.ended_at: float | None = None
        self.raised: BaseException | None = None
        self.close_error: str | None = None

    @property
    def tokens(self) -> tuple[Any, ...]:
        """The token ids of all chunks, in order."""
        return tuple(token for chunk in self.chunks for token in chunk.token_ids)

    def ended_within(self, seconds: float) -> bool:
        """Whether the stream ended by itself within ``seconds`` of being opened."""
        return self.ended_at is not None and self.ended_at - self.opened_at <= seconds

    def add(self, item: Any) -> None:
        """Copy ``item``; one that is no chunk is an error."""
        try:
            self.chunks.append(self._read(item, self._elapsed()))
        except Exception as error:
            self.add_error(error)

    def add_error(self, error: BaseException) -> None:
        """Note that the stream gave ``error`` instead of a chunk."""
        self.chunks.append(Chunk(self._elapsed(), error=describe(error)))
        self.raised = error

    def _elapsed(self) -> float:
        return time.monotonic() - self.opened_at


async def open_stream(engine: object, request: dict[str, Any], context: Any) -> Stream:
    """Call ``generate`` and await what it gives where that is not the stream itself.

    Raises:
        EngineRaisedError: it raised, or gave no asynchronous iterable.
    """
    return await guarded(lambda: _opened(engine, request, context))


async def receive(
    stream: Stream,
    reception: Reception,
    *,
    on_first: Callable[[], object] | None = None,
    take: int | None = None,
) -> None:
    """Receive ``stream`` to its end, or ``take`` items of it, and close it.

    Args:
        stream: What ``generate`` gave.
        reception: Filled while the stream runs, so that it tells what came before a deadline.
        on_first: Called once, after the first item.
        take: Drop the stream after so many items.
    """
    iterator: Any = None
    try:
        iterator = aiter(stream)
        await _take_all(iterator, reception, on_first, take)
    except BaseException as error:
        if is_released():
            if isinstance(error, asyncio.CancelledError):
                await close(iterator, stream, reception)
            raise
        reception.add_error(error)
        reception.ended_at = time.monotonic()
    await close(iterator, stream, reception)


async def receive_within(seconds: float, stream: Stream, reception: Reception) -> bool:
    """Receive ``stream`` and say whether it ended within ``seconds`` of being opened."""
    # Closing may be what takes too long; the stream's own end decides.
    with suppress(OverdueError):
        await bounded(receive(stream, reception), seconds)
    return reception.ended_within(seconds)


async def _opened(engine: Any, request: dict[str, Any], context: Any) -> Stream:
    result = engine.generate(request, context)
    if not isinstance(result, AsyncIterable):
        result = await result
    if not isinstance(result, AsyncIterable):
        raise TypeError(f"it gave {result!r:.80}, which is no asynchronous iterable")
    return result


async def _take_all(
    iterator: AsyncIterator[Any],
    reception: Reception,
    on_first: Callable[[], object] | None,
    take: int | None,
) -> None:
    while take is None or len(reception.chunks) < take:
        try:
            reception.add(await anext(iterator))
        except StopAsyncIteration:
            reception.ended_at = time.monotonic()
            return
        if on_first is not None and len(reception.chunks) == 1:
            on_first()
        if is_released():
            return
        await _let_others_run(len(reception.chunks))


async def _let_others_run(received: int) -> None:
    """Streams that never wait take turns; an endless one can't fill the memory in time."""
    await asyncio.sleep(_CROWD_PAUSE_S if received > _CROWD else 0)


async def close(iterator: Any, stream: Any, reception: Reception) -> None:
    """Close a stream and its iterator; what that raises goes to ``reception``."""
    parts = [iterator] if iterator is stream else [iterator, stream]
    for part in parts:
        if not offers(part, "aclose"):
            continue
        try:
            await call(part, "aclose")
        except EngineRaisedError as error:
            reception.close_error = str(error)

"""Engines that see a stop late, in part or not at all, and what they make of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request, chunk, limit_of, token


class Sleeper(Engine):
    """Waits before the first chunk of a long request, and sees a stop only afterwards."""

    waits = 60.0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if request["stop_conditions"]["max_tokens"] != 10_000:
            async for item in super().generate(request, context):
                yield item
            return
        await self.wait()
        yield chunk(finish="cancelled")

    async def wait(self) -> None:
        await asyncio.sleep(self.waits)


class SwallowsCancelledError(Sleeper):
    """The engine on which ``asyncio.wait_for`` hangs; it ends by itself after a while."""

    async def wait(self) -> None:
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.05)
            except BaseException:  # The fault.
                continue


class SwallowsForAWhile(SwallowsCancelledError):
    """Waits before every stream."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await self.wait()
        yield chunk(1, finish="length")


class SeesTheStopLate(Sleeper):
    waits = 0.4


class BlocksPastTheDeadline(Sleeper):
    async def wait(self) -> None:
        time.sleep(0.4)


class NeverEnds(Engine):
    """Never looks at the context, and never waits."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if request["stop_conditions"]["max_tokens"] != 10_000:
            async for item in super().generate(request, context):
                yield item
            return
        while True:
            yield chunk(7)


class NeverEndsAtAll(Engine):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        while True:
            yield chunk(7)


class StopsDuringOpening(Engine):
    """``generate`` is a coroutine with several steps, and looks at the context after them."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        for _ in range(5):
            await asyncio.sleep(0)
        if context.is_stopped():
            return self.when_stopped(request, context)
        return super().generate(request, context)

    def when_stopped(self, request: Request, context: Any) -> Any:
        return super().generate(request, context)


class StoppedDuringOpeningRaises(StopsDuringOpening):
    def when_stopped(self, request: Request, context: Any) -> Any:
        raise RuntimeError("stopped")


class StoppedDuringOpeningIsEmpty(StopsDuringOpening):
    async def when_stopped(self, request: Request, context: Any) -> Any:
        return
        yield


class StoppedDuringOpeningIsIgnored(StopsDuringOpening):
    async def when_stopped(self, request: Request, context: Any) -> Any:
        yield chunk(1, finish="length")


class StoppedDuringOpeningErrs(StopsDuringOpening):
    async def when_stopped(self, request: Request, context: Any) -> Any:
        yield chunk(1)
        raise RuntimeError("stopped")


class OpeningHangs(StopsDuringOpening):
    """Waits for ever if the stop comes while it opens."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        stream = await super().generate(request, context)
        if context.is_stopped():
            await asyncio.sleep(60)
        return stream


class StopSeenOnlyAtFirst(Engine):
    """Looks at the context before the first chunk alone."""

    finish = "length"
    pause = 0.0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await asyncio.sleep(0)
        if context.is_stopped():
            yield chunk(finish="cancelled")
            return
        limit = min(limit_of(request), 200)
        for sent in range(1, limit + 1):
            await asyncio.sleep(self.pause)
            last = sent == limit
            yield chunk(token(request["token_ids"], sent), finish=self.finish if last else None)


class StopSeenAfterTheDeadline(StopSeenOnlyAtFirst):
    finish = "cancelled"
    pause = 0.05

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.pause = 0.05 if limit_of(request) > 1_000 else 0.0
        async for item in super().generate(request, context):
            if item.get("finish_reason") == "cancelled" and limit_of(request) <= 1_000:
                item["finish_reason"] = "length"
            yield item


class ErrsWhenStopped(Engine):
    """A stop after the first chunk ends in an error."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        sent = 0
        async for item in super().generate(request, context):
            if sent and item.get("finish_reason") == "cancelled":
                raise RuntimeError("stopped")
            sent += 1
            yield item


class EndsWhenStopped(Engine):
    """A stop after the first chunk ends the stream without a word."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        sent = 0
        async for item in super().generate(request, context):
            if sent and item.get("finish_reason") == "cancelled":
                return
            sent += 1
            yield item


class WithAbort(Engine):
    """Stops by ``abort`` alone; the context is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted: set[str] = set()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        look = SimpleNamespace(is_stopped=lambda: context.id() in self.aborted)
        async for item in super().generate(request, look):
            yield item
            await asyncio.sleep(0.01 if limit_of(request) > 1_000 else 0)

    async def abort(self, context: Any) -> None:
        self.aborted.add(context.id())


class AbortRaises(Engine):
    async def abort(self, context: Any) -> None:
        raise RuntimeError("unknown request")


class AbortHangs(Engine):
    async def abort(self, context: Any) -> None:
        await asyncio.sleep(60)


class RefusesLongRequests(Engine):
    """Its context is short."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        if limit_of(request) > 1_000:
            raise ValueError("longer than the context")
        return super().generate(request, context)


class LongRequestsGiveNothing(Engine):
    """Ends a long request at once, unless it is stopped by then."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if limit_of(request) > 1_000 and not context.is_stopped():
            return
        async for item in super().generate(request, context):
            yield item


class HangsAfterTerminal(Engine):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in super().generate(request, context):
            yield item
        await asyncio.sleep(60)

"""Engines and streams that are closed or dropped by their reader, and what that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request, chunk, limit_of


class _WithClose:
    def __init__(self, stream: Any, close: Callable[[], Any]) -> None:
        self._stream = stream
        self.aclose = close

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._stream)


class HangsOnClose(Engine):
    """Its streams end well but can't be closed."""

    def generate(self, request: Request, context: Any) -> Any:
        return _WithClose(super().generate(request, context), self.close)

    async def close(self) -> None:
        await asyncio.sleep(60)


class RaisesOnClose(HangsOnClose):
    async def close(self) -> None:
        raise KeyboardInterrupt("closing")


class WithoutClose(Engine):
    """Its streams have no ``aclose``."""

    def generate(self, request: Request, context: Any) -> Any:
        stream = _WithClose(super().generate(request, context), lambda: None)
        del stream.aclose
        return stream


class KeepsTasks(Engine):
    """A dropped stream leaves its task behind, until the cleanup."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[asyncio.Task[None]] = set()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        task = asyncio.create_task(asyncio.sleep(60))
        self.tasks.add(task)
        async for item in super().generate(request, context):
            yield item
        task.cancel()

    async def cleanup(self) -> None:
        for task in self.tasks:
            task.cancel()
        await super().cleanup()


class EndsTasksSoonAfterDrop(KeepsTasks):
    """The task of a dropped stream ends a moment later."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        task = asyncio.create_task(asyncio.sleep(60))
        try:
            async for item in Engine.generate(self, request, context):
                yield item
        finally:
            asyncio.get_running_loop().call_later(0.05, task.cancel)


class HasSlots(Engine):
    """A dropped stream keeps its slot; a request without one waits for ever."""

    slots = 3

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Semaphore(self.slots)

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await self.free.acquire()
        async for item in super().generate(request, context):
            yield item
        self.free.release()


class HasAsManySlotsAsDropped(HasSlots):
    slots = 4


class RefusesWithoutSlot(Engine):
    """A dropped stream keeps its slot; a request without one is refused."""

    free = 4

    def generate(self, request: Request, context: Any) -> Any:
        if self.free == 0:
            raise RuntimeError("no slot")
        self.free -= 1
        return self.serve(request, context)

    async def serve(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in super().generate(request, context):
            yield item
        self.free += 1


class CountsInFlight(Engine):
    """Counts its streams, and forgets to count a dropped one down."""

    as_method = False

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @property
    def in_flight(self) -> Any:
        return (lambda: self.count) if self.as_method else self.count

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.count += 1
        async for item in super().generate(request, context):
            yield item
        self.count -= 1


class CountsInFlightByMethod(CountsInFlight):
    as_method = True


class BreaksAfterDrop(Engine):
    """A dropped stream spoils the ones that follow."""

    spoilt = False

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if self.spoilt and limit_of(request) < 1_000:
            yield chunk(1)
            return
        try:
            async for item in super().generate(request, context):
                yield item
        except GeneratorExit:
            self.spoilt = True
            raise


class RaisesWhenDropped(Engine):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        try:
            async for item in super().generate(request, context):
                yield item
        except GeneratorExit:
            raise RuntimeError("dropped") from None

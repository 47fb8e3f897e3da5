"""Engines whose streams are not what each would be alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from forwardcache.conformance.strict.prompts import LONGEST, family
from tests.conformance.engines.toy import Engine, Item, Request, token


class Crowded(Engine):
    """Lets ``crowd`` decide what happens to a request that comes while others are served."""

    def __init__(self) -> None:
        super().__init__()
        self.serving = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.serving += 1
        try:
            async for item in super().generate(request, context):
                for part in self.crowd(item) if self.serving > 1 else [item]:
                    yield part
        finally:
            self.serving -= 1

    def crowd(self, item: Item) -> list[Item]:
        return [item]


def crowding(crowd: Callable[[Item], list[Item]]) -> Callable[[], Engine]:
    class Variant(Crowded):
        def crowd(self, item: Item) -> list[Item]:
            return crowd(item)

    return Variant


class RefusesConcurrentStreams(Crowded):
    """Its ``generate`` is awaited, and raises when another stream is served."""

    def generate(self, request: Request, context: Any) -> Any:
        if self.serving:
            raise RuntimeError("busy")
        return super().generate(request, context)


class RaisesInConcurrentStreams(Crowded):
    def crowd(self, item: Item) -> list[Item]:
        raise RuntimeError("out of memory")


class MixesStreams(Engine):
    """Keeps one position for all streams: streams that run at once skip each other's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt: list[int] = []

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.prompt = list(request["token_ids"])
        async for item in super().generate(request, context):
            if item["token_ids"]:
                shift = token(self.prompt, 0) - token(request["token_ids"], 0)
                item["token_ids"] = [item["token_ids"][0] + shift]
            yield item


class Random(Engine):
    """Samples, so that the same request gives other tokens each time."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.drawn += 1
        seed = self.drawn
        async for item in super().generate(request, context):
            item["token_ids"] = [value + seed for value in item["token_ids"]]
            yield item


class RandomForOnePrompt(Random):
    """Samples for one of the prompts, and decodes greedily for the others."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        serve = Random if tuple(request["token_ids"]) == family(1, LONGEST)[0] else Engine
        async for item in serve.generate(self, request, context):
            yield item


class StopReachesAll(Engine):
    """One stopped context stops every stream that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[Any] = []

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.contexts.append(context)
        try:
            async for item in self.served(request, context):
                yield item
        finally:
            self.contexts.remove(context)

    def served(self, request: Request, context: Any) -> AsyncIterator[Item]:
        return Engine.generate(self, request, self)

    def is_stopped(self) -> bool:
        return any(context.is_stopped() for context in self.contexts)


class StopSpoilsNeighbours(StopReachesAll):
    """One stopped context changes the tokens of the others."""

    async def served(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in Engine.generate(self, request, context):
            if self.is_stopped() and item["token_ids"]:
                item["token_ids"] = [31_999]
            yield item


class StopEndsNeighbours(StopReachesAll):
    """One stopped context ends the others without a terminal chunk."""

    async def served(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in Engine.generate(self, request, context):
            if self.is_stopped() and not context.is_stopped():
                return
            yield item


class RandomAndStopReachesAll(Random, StopReachesAll):
    """Samples, and one stopped context stops every stream."""


class Deadlocks(Engine):
    """Two streams at once wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if self.lock.locked():
            await asyncio.sleep(60)
        async with self.lock:
            async for item in super().generate(request, context):
                yield item

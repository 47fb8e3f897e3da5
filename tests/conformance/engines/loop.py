"""Engines that keep the event loop busy, or work outside it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request, chunk, limit_of


class BlocksTheLoop(Engine):
    """Each short request keeps the loop for a while."""

    block_s = 0.06

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if limit_of(request) < 1_000:
            time.sleep(self.block_s)
        async for item in super().generate(request, context):
            yield item


class BlocksTheLoopShortly(BlocksTheLoop):
    block_s = 0.01


class BlocksTheLoopOnce(Engine):
    """Keeps the loop at its first request alone, as one that warms up does."""

    warm = False

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if not self.warm:
            self.warm = True
            time.sleep(0.3)
        async for item in super().generate(request, context):
            yield item


class BlocksForGood(Engine):
    """Blocks its loop in a stream; a test releases it."""

    released = threading.Event()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        yield chunk(5)
        self.released.wait(20)
        yield chunk(6, finish="length")


class BlocksPastTheLimit(Engine):
    """Blocks its loop for a second in all, then sends a good stream."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        time.sleep(1.0)
        yield chunk(1, finish="length")


class UsesToThread(Engine):
    """Works in the loop's own executor, whose threads stay."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await asyncio.to_thread(time.sleep, 0)
        async for item in super().generate(request, context):
            yield item

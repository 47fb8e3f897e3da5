"""Engines that make something else of the cancellation of the task that waits for a chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request, chunk, limit_of, token


class OnCancelledWait(Engine):
    """Gives what ``last`` says where the waiting task is cancelled."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        try:
            async for item in super().generate(request, context):
                yield item
        except asyncio.CancelledError:
            for item in self.last():
                yield item

    def last(self) -> list[Item]:
        return []


class StopsWhenWaiterIsCancelled(OnCancelledWait):
    def last(self) -> list[Item]:
        return [chunk(finish="stop")]


class EndsWhenWaiterIsCancelled(OnCancelledWait):
    """Ends the stream without a word."""


class SaysCancelledWhenWaiterIs(OnCancelledWait):
    def last(self) -> list[Item]:
        return [chunk(finish="cancelled")]


class ErrsWhenWaiterIsCancelled(OnCancelledWait):
    def last(self) -> list[Item]:
        raise RuntimeError("the client has gone")


class GoesOnWhenWaiterIsCancelled(Engine):
    """Swallows each cancellation and sends the next token."""

    times = 100

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        stream, swallowed = super().generate(request, context), 0
        while True:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > self.times:
                    raise
            try:
                yield await anext(stream)
            except StopAsyncIteration:
                return


class SwallowsTwice(GoesOnWhenWaiterIsCancelled):
    times = 2


class HangsWhenWaiterIsCancelled(OnCancelledWait):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        try:
            async for item in Engine.generate(self, request, context):
                yield item
        except asyncio.CancelledError:
            await asyncio.sleep(5)
            raise


class BreaksWhenWaiterIsCancelled(Engine):
    """Serves nobody any more once a waiter was cancelled."""

    broken = False

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if self.broken:
            raise RuntimeError("the scheduler has ended")
        try:
            async for item in super().generate(request, context):
                yield item
        except asyncio.CancelledError:
            self.broken = True
            raise


class NeverWaits(Engine):
    """Has each chunk at once, so that nobody waits."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        limit = limit_of(request)
        for sent in range(1, limit + 1):
            if context.is_stopped():
                yield chunk(finish="cancelled")
                return
            yield chunk(
                token(request["token_ids"], sent), finish="length" if sent == limit else None
            )


class LingersAfterItsEnd(Engine):
    """Its model ends at once; the stream ends a moment later, whoever waits."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if context.is_stopped():
            yield chunk(finish="cancelled")
            return
        yield chunk(1, finish="stop")
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.002)

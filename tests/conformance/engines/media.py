"""Encoders and engines of raw media: one of each that keeps every rule, and variants of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request, chunk


class Encoder(Engine):
    """Takes a request with an image and hands over one chunk."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        assert request["multi_modal_data"]["image"], "the request has no image"
        assert request["mm_processor_kwargs"] == {"min_pixels": 64}
        await asyncio.sleep(0)
        if context.is_stopped():
            yield chunk(finish="cancelled")
            return
        for item in self.handed_over():
            if isinstance(item, BaseException):
                raise item
            yield item

    def handed_over(self) -> list[Any]:
        return [encoded()]


def encoded(**fields: Any) -> Item:
    return {**chunk(finish="stop"), "encoder_result": {"handle": "toy"}, **fields}


def encoding(*items: Any) -> Callable[[], Engine]:
    return type("Variant", (Encoder,), {"handed_over": lambda self: list(items)})


class StubbornEncoder(Encoder):
    """Does not look at the context."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        yield encoded()


class SlowEncoder(StubbornEncoder):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if context.is_stopped():
            await asyncio.sleep(2)
        yield encoded()


class EncoderOfOne(Encoder):
    """Hands over two chunks where it has several requests."""

    serving = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.serving += 1
        await asyncio.sleep(0)
        many = self.serving > 1
        async for item in super().generate(request, context):
            yield item
            if many:
                yield item
        self.serving -= 1


class Raw(Engine):
    """Sends JSON objects; a long request has as many steps as it says."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        assert request["prompt"] == "ping"
        for step in range(request.get("steps", 2)):
            if context.is_stopped():
                return
            await asyncio.sleep(0)
            yield {"progress": step, "token_ids": 5, "finish_reason": {"error": 1}}
        yield ["no", "object"]


def raw(*items: Any) -> Callable[[], Engine]:
    class Variant(Raw):
        async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
            for item in items:
                if isinstance(item, BaseException):
                    raise item
                yield item

    return Variant


class StubbornRaw(Raw):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        for step in range(request.get("steps", 2)):
            await asyncio.sleep(0.001)
            yield {"progress": step}


class RawWithTokens(Raw):
    async def start(self, worker_id: int) -> Any:
        return {"model": "toy", "llm": {}}


class RawOfOne(Raw):
    """Gives nothing where it has several requests."""

    serving = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.serving += 1
        await asyncio.sleep(0)
        many = self.serving > 1
        async for item in super().generate(request, context):
            if not many:
                yield item
        self.serving -= 1


class _Refusing:
    """Refuses to open a stream where another is served."""

    serving = 0

    def generate(self, request: Request, context: Any) -> Any:
        if self.serving:
            raise RuntimeError("busy")
        return self.served(request, context)

    async def served(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.serving += 1
        async for item in super().generate(request, context):  # type: ignore[misc]
            yield item
        self.serving -= 1


class EncoderThatRefuses(_Refusing, Encoder):
    pass


class RawThatRefuses(_Refusing, Raw):
    pass


class RawRaisesInACrowd(RawOfOne):
    """Raises where it has several requests, which is not judged there."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.serving += 1
        await asyncio.sleep(0)
        if self.serving > 1:
            raise RuntimeError("out of memory")
        async for item in Raw.generate(self, request, context):
            yield item
        self.serving -= 1


class RawErrsWhenStopped(Raw):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if context.is_stopped():
            raise RuntimeError("stopped")
        yield {}

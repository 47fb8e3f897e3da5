"""Engines that send another number of tokens than was asked for, or count wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from typing import Any

from tests.conformance.engines.concurrent import Crowded
from tests.conformance.engines.stops import StopSeenOnlyAtFirst
from tests.conformance.engines.toy import Edited, Engine, Item, Request, chunk, limit_of, usage


def with_limit(request: Request, limit: int) -> Request:
    request = deepcopy(request)
    request["stop_conditions"]["max_tokens"] = limit
    return request


class SendsOneMore(Engine):
    """One token more than was asked for; the usage fits what is sent."""

    more = 1

    def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        return super().generate(with_limit(request, limit_of(request) + self.more), context)


class NeverMoreThan(Engine):
    """Ends with ``length`` at a limit of its own."""

    most = 8

    def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        limit = limit_of(request)
        # Long requests are those that are stopped.
        limit = limit if limit > 1_000 else min(limit, self.most)
        return super().generate(with_limit(request, limit), context)


class NeverMoreThan16(NeverMoreThan):
    most = 16


class NeverMoreThan128(NeverMoreThan):
    most = 128


class EndsByItself(Edited):
    """Its model ends after ``length`` tokens, whatever was asked for."""

    length = 8

    def edit(self, item: Item, request: Request) -> Any:
        return item

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        shorter = with_limit(request, min(limit_of(request), self.length))
        async for item in super().generate(shorter, context):
            ends = item.get("finish_reason") == "length" and limit_of(request) >= self.length
            yield {**item, "finish_reason": "stop"} if ends else item


class EndsAfterFive(EndsByItself):
    length = 5


class SendsOneMoreInACrowd(Crowded):
    """Sends a token too many where several streams are served."""

    def crowd(self, item: Item) -> list[Item]:
        if "completion_usage" in item and item["finish_reason"] == "length":
            counts = item["completion_usage"]
            more = usage(counts["prompt_tokens"], counts["completion_tokens"] + 1)
            return [chunk(*item["token_ids"], 7, finish="length", usage=more)]
        return [item]


class Counting(Edited):
    """Reports ``counted`` for the prompt; the total fits."""

    def edit(self, item: Item, request: Request) -> Any:
        if "completion_usage" in item:
            completion = item["completion_usage"]["completion_tokens"]
            item["completion_usage"] = usage(self.counted(request["token_ids"], item), completion)
        return item

    def counted(self, prompt: list[int], item: Item) -> Any:
        return len(prompt)


def counting(counted: Any) -> Any:
    return type(
        "Variant", (Counting,), {"counted": lambda self, prompt, item: counted(prompt, item)}
    )


class ShortContext(Engine):
    """Refuses more tokens than its context holds, and says how many those are."""

    length = 64
    said: Any = 64

    async def start(self, worker_id: int) -> Any:
        return {**await super().start(worker_id), "context_length": self.said}

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if len(request["token_ids"]) + limit_of(request) > self.length:
            raise ValueError("longer than the context")
        async for item in super().generate(request, context):
            yield item


class ShortContextUnsaid(ShortContext):
    said = None


class ShortContextInRegistration(ShortContext):
    """Says it where Dynamo's configuration has it."""

    async def start(self, worker_id: int) -> Any:
        return {"model": "toy", "llm": {"context_length": 64}}


class TinyContext(ShortContext):
    """Has no room for a prompt of 40 ids and its answer."""

    length = said = 40


class Slow(Engine):
    """Takes its time for each token, and notes how many were asked for."""

    pause = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.asked.append(limit_of(request))
        async for item in super().generate(request, context):
            await asyncio.sleep(self.pause)
            yield item


class FillsItsContext(StopSeenOnlyAtFirst):
    """Looks at the context before the first chunk alone, and is soon at its end."""

    async def start(self, worker_id: int) -> Any:
        return {"model": "toy", "context_length": 16}


class FillsItsContextSlowly(FillsItsContext):
    pause = 0.004

"""Engines that take one prompt for another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tests.conformance.engines.counts import ShortContext
from tests.conformance.engines.toy import Engine, Item, Request, token


class Answering(Engine):
    """Answers the prompt that ``taken_for`` makes of it."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        position = 0
        prompt = self.taken_for(request["token_ids"])
        async for item in super().generate(request, context):
            if item["token_ids"]:
                position += 1
                item["token_ids"] = [token(prompt, position)]
            yield item

    def taken_for(self, prompt: list[int]) -> list[int]:
        return prompt


class KeepsAnswersByBeginning(Answering):
    """Keeps the first prompt with the same first ids, and answers it for good."""

    length = 4

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[int, ...], list[int]] = {}

    def taken_for(self, prompt: list[int]) -> list[int]:
        beginning = tuple(prompt[: self.length])
        return self.kept.setdefault(beginning, list(prompt))


class KeepsAnswersBySixteen(KeepsAnswersByBeginning):
    length = 16


class KeepsAnswersByThirtyTwo(KeepsAnswersByBeginning):
    length = 32


class SharesAnswersInFlight(Answering):
    """Requests that run at once and begin alike all get the answer to the first of them."""

    place = slice(0, 4)

    def __init__(self) -> None:
        super().__init__()
        self.in_hand: list[list[int]] = []

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        prompt = list(request["token_ids"])
        self.in_hand.append(prompt)
        try:
            async for item in super().generate(request, context):
                yield item
        finally:
            self.in_hand.remove(prompt)

    def taken_for(self, prompt: list[int]) -> list[int]:
        return next(r for r in self.in_hand if r[self.place] == list(prompt)[self.place])


class SharesAnswersByEnd(SharesAnswersInFlight):
    """The same for requests that end alike."""

    place = slice(-4, None)


class LooksAtTheLastId(Answering):
    def taken_for(self, prompt: list[int]) -> list[int]:
        return prompt[-1:]


class LooksAtNoId(Answering):
    def taken_for(self, prompt: list[int]) -> list[int]:
        return [1]


class LooksAtTheMiddle(Engine):
    """Its answers follow from every id."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        shift = sum(place * value for place, value in enumerate(request["token_ids"]))
        async for item in super().generate(request, context):
            item["token_ids"] = [(value + shift) % 32_000 for value in item["token_ids"]]
            yield item


class RaisesForLongPromptsInACrowd(Engine):
    """Out of memory where several long prompts are served."""

    def __init__(self) -> None:
        super().__init__()
        self.long = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        is_long = len(request["token_ids"]) > 3
        self.long += is_long
        try:
            async for item in super().generate(request, context):
                if is_long and self.long > 1:
                    raise MemoryError("no block left")
                yield item
        finally:
            self.long -= is_long


class Echo(Engine):
    """Sends the prompt back, again and again."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        prompt, position = list(request["token_ids"]), 0
        async for item in super().generate(request, context):
            if item["token_ids"]:
                item["token_ids"] = [prompt[position % len(prompt)]]
                position += 1
            yield item


class EchoInShortContext(ShortContext, Echo):
    """Its context holds no prompt of 40 ids and an answer as long."""

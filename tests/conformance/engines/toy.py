"""The engine that keeps every rule, and factories of variants of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

Request = dict[str, Any]
Item = Any


def usage(prompt: int, completion: int, total: int | None = None) -> dict[str, int]:
    total = prompt + completion if total is None else total
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
    }


def chunk(*tokens: Any, finish: Any = None, usage: Any = None) -> Item:
    item: dict[str, Any] = {"token_ids": list(tokens), "index": 0}
    if finish is not None:
        item["finish_reason"] = finish
    if usage is not None:
        item["completion_usage"] = usage
    return item


def limit_of(request: Request) -> int:
    return request["stop_conditions"]["max_tokens"] or 8


def token(prompt: list[int], position: int) -> int:
    """Depends on the order of the prompt's ids too."""
    return (prompt[0] * 37 + prompt[-1] * 101 + position) % 32_000


class Engine:
    """Keeps every rule of both profiles."""

    def __init__(self) -> None:
        self.running = False

    async def start(self, worker_id: int) -> Any:
        assert worker_id == 0
        self.running = True
        return {"model": "toy"}

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        prompt, sent, limit = request["token_ids"], 0, limit_of(request)
        while sent < limit:
            await asyncio.sleep(0)
            if context.is_stopped():
                yield chunk(finish="cancelled", usage=usage(len(prompt), sent))
                return
            sent += 1
            last = sent == limit
            counts = usage(len(prompt), sent) if last else None
            yield chunk(token(prompt, sent), finish="length" if last else None, usage=counts)

    async def cleanup(self) -> None:
        self.running = False


class Edited(Engine):
    """Sends what ``edit`` makes of each chunk; a list sends several, None nothing."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in super().generate(request, context):
            edited = self.edit(item, request)
            for part in edited if isinstance(edited, list) else [edited]:
                if part is not None:
                    yield part

    def edit(self, item: Item, request: Request) -> Any:
        return item


def edited(edit: Callable[[Item], Any]) -> Callable[[], Engine]:
    """A factory of engines whose every chunk goes through ``edit``."""

    class Variant(Edited):
        def edit(self, item: Item, request: Request) -> Any:
            return edit(item)

    return Variant


def ending(change: Callable[[Item], Any]) -> Callable[[], Engine]:
    """A factory of engines whose terminal chunk, unless cancelled, goes through ``change``."""

    def edit(item: Item) -> Any:
        return change(item) if item.get("finish_reason") == "length" else item

    return edited(edit)


def stopping(change: Callable[[Item], Any]) -> Callable[[], Engine]:
    """A factory of engines whose cancelled chunk goes through ``change``."""

    def edit(item: Item) -> Any:
        return change(item) if item.get("finish_reason") == "cancelled" else item

    return edited(edit)


def streaming(*steps: Any) -> Callable[[], Engine]:
    """A factory of engines that send ``steps`` when not stopped; exceptions are raised."""

    class Variant(Engine):
        async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
            if context.is_stopped():
                yield chunk(finish="cancelled")
                return
            for step in steps:
                await asyncio.sleep(0)
                if isinstance(step, BaseException):
                    raise step
                yield step

    return Variant


def stopped(*steps: Any) -> Callable[[], Engine]:
    """A factory of engines that send ``steps`` when stopped before the first chunk."""

    class Variant(Engine):
        async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
            await asyncio.sleep(0)
            if not context.is_stopped():
                async for item in super().generate(request, context):
                    yield item
                return
            for step in steps:
                if isinstance(step, BaseException):
                    raise step
                yield step

    return Variant


def having(**methods: Any) -> Callable[[], Engine]:
    """A factory of engines with these methods, plain functions of the engine."""
    return type("Variant", (Engine,), methods)


def _nth_call(engine: Any, method: object) -> int:
    """Which call of ``method`` on ``engine`` this is, from 1."""
    calls: dict[int, int] = vars(engine).setdefault("calls", {})
    calls[id(method)] = calls.get(id(method), 0) + 1
    return calls[id(method)]


def raising(error: BaseException, *, on_call: int = 1) -> Any:
    """A coroutine method that raises at its ``on_call``th call and afterwards."""

    async def method(self: Any, *args: Any) -> Any:
        if _nth_call(self, method) >= on_call:
            raise error
        return []

    return method


def returning(*values: Any) -> Any:
    """A coroutine method that returns one value a call, the last again and again."""

    async def method(self: Any, *args: Any) -> Any:
        return values[min(_nth_call(self, method), len(values)) - 1]

    return method


def plainly(*values: Any) -> Any:
    """A method that isn't a coroutine and returns one value a call."""

    def method(self: Any, *args: Any) -> Any:
        return values[min(_nth_call(self, method), len(values)) - 1]

    return method


async def hanging(self: Any, *args: Any) -> Any:
    await asyncio.sleep(60)


def failing_at_once(self: Any, request: Request, context: Any) -> Any:
    raise ValueError("no slot")


async def failing_when_awaited(self: Any, request: Request, context: Any) -> Any:
    raise ValueError("no slot")

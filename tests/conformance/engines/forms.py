"""Engines that keep the rules in other forms than dicts from an async generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request, edited


class OneChunkObject(Engine):
    """Sends one dict again and again, with other contents."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        shared: dict[str, Any] = {}
        async for item in super().generate(request, context):
            shared.clear()
            shared.update(item)
            yield shared
        shared.clear()


class Reason(Enum):
    LENGTH = "length"
    CANCELLED = "Cancelled"


class NumberedReason(IntEnum):
    LENGTH = 1
    ABORT = 2


def with_enum_reasons(reasons: Any, cancelled: str) -> Callable[[], Engine]:
    names = {"length": "LENGTH", "cancelled": cancelled}

    def edit(item: Item) -> Item:
        if "finish_reason" in item:
            item["finish_reason"] = reasons[names[item["finish_reason"]]]
        return item

    return edited(edit)


def as_object(item: Item) -> Any:
    fields = {"finish_reason": None, "completion_usage": None, **item}
    if fields["completion_usage"] is not None:
        fields["completion_usage"] = SimpleNamespace(**fields["completion_usage"])
    return SimpleNamespace(**fields)


class Awaited(Engine):
    """``generate`` is a coroutine that gives the stream."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().generate(request, context)

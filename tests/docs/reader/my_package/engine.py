"""An engine that keeps the contract: it counts, and stops when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Counting:
    async def start(self, worker_id: int) -> dict[str, str]:
        return {"model": "counting"}

    async def generate(self, request: Any, context: Any) -> AsyncIterator[dict[str, Any]]:
        limit = request["stop_conditions"]["max_tokens"] or 16
        for position in range(1, limit + 1):
            await asyncio.sleep(0)
            if context.is_stopped():
                yield {"token_ids": [], "index": 0, "finish_reason": "cancelled"}
                return
            reason = "length" if position == limit else None
            yield {"token_ids": [position], "index": 0, "finish_reason": reason}

    async def cleanup(self) -> None:
        pass


def make_engine() -> Counting:
    return Counting()

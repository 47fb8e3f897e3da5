"""Engines that start or clean up badly, and what they leave behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from tests.conformance.engines.toy import Engine, Item, Request


class StartsSchedulerLate(Engine):
    """The first request starts a task that lives until the cleanup, as a scheduler does."""

    task: asyncio.Task[None] | None = None

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if self.task is None:
            self.task = asyncio.create_task(asyncio.sleep(60))
        async for item in super().generate(request, context):
            yield item

    async def cleanup(self) -> None:
        if self.task is not None:
            self.task.cancel()
        await super().cleanup()


class LeavesTask(Engine):
    async def start(self, worker_id: int) -> Any:
        self.task = asyncio.create_task(asyncio.sleep(60), name="poller")
        return await super().start(worker_id)


class LeavesThread(Engine):
    """Its thread ends when ``stop`` is set, which ``cleanup`` does not do."""

    stop = threading.Event()
    daemon = False

    async def start(self, worker_id: int) -> Any:
        threading.Thread(
            target=self.stop.wait, args=(5,), name="worker", daemon=self.daemon
        ).start()
        return await super().start(worker_id)


class LeavesDaemonThread(LeavesThread):
    daemon = True


class LeavesTaskForAMoment(Engine):
    async def cleanup(self) -> None:
        await super().cleanup()
        self.task = asyncio.create_task(asyncio.sleep(0.05))


class FailsToStart(Engine):
    async def start(self, worker_id: int) -> Any:
        raise RuntimeError("no memory")


class CantCleanUpAfterFailedStart(FailsToStart):
    async def cleanup(self) -> None:
        raise AttributeError("handle")


class NeedsStartToCleanUp(Engine):
    """Its handle exists only once it has started."""

    async def start(self, worker_id: int) -> Any:
        self.handle: list[int] = []
        return await super().start(worker_id)

    async def cleanup(self) -> None:
        self.handle.clear()
        await super().cleanup()


class WaitsForStartToCleanUp(Engine):
    async def cleanup(self) -> None:
        if not vars(self).get("started"):
            await asyncio.sleep(60)

    async def start(self, worker_id: int) -> Any:
        self.started = True
        return await super().start(worker_id)

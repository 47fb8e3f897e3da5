"""Engines that start or clean up badly, and what they leave behind."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
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


class LeavesThreadOfThread(LeavesThread):
    """The thread is started by another one of the engine's, which has a loop of its own."""

    async def start(self, worker_id: int) -> Any:
        async def start() -> None:
            await super(LeavesThreadOfThread, self).start(worker_id)

        starter = threading.Thread(target=lambda: asyncio.run(start()), daemon=True)
        starter.start()
        starter.join()
        return await Engine.start(self, worker_id)


class WatchedByOthers(Engine):
    """While it starts, another tool starts a thread, as a test runner's time-out does."""

    async def start(self, worker_id: int) -> Any:
        started = threading.Event()
        ASKED.put(started)
        started.wait(5)
        return await super().start(worker_id)


def _other_tool() -> None:
    while True:
        started = ASKED.get()
        timer = threading.Thread(target=time.sleep, args=(1.5,), name="time-out", daemon=False)
        timer.start()
        started.set()


ASKED: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
# It was there before any engine.
threading.Thread(target=_other_tool, daemon=True).start()


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

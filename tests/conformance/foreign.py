"""An engine as a stranger would write it from the page alone: objects, enums, threads of its own.

It shares no line with the kit or with the other engines of the tests.
"""

import asyncio
import enum
import queue
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any


class FinishReason(enum.IntEnum):
    STOP = 0
    LENGTH = 1
    ABORT = 2


@dataclass
class Usage:
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Output:
    token_ids: list[int]
    index: int = 0
    finish_reason: FinishReason | None = None
    completion_usage: Usage | None = None


@dataclass
class Config:
    model: str


@dataclass
class Source:
    rank: int

    def dp_rank(self) -> int:
        return self.rank


@dataclass
class Bindings:
    dp_ranks: list[int] | None


class ThreadedEngine:
    """One worker thread decodes all requests in turn, a token each."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._worker: threading.Thread | None = None
        self._shared = Output([])

    async def start(self, worker_id: int) -> Config:
        self._worker = threading.Thread(target=self._work, name=f"decoder-{worker_id}")
        self._worker.start()
        return Config("foreign/model")

    async def generate(self, request: dict[str, Any], context: Any) -> AsyncIterator[Output]:
        """Awaitable: queues the job, and gives the stream of its outputs."""
        job = _Job(request, context, asyncio.get_running_loop())
        self._jobs.put(job)
        return job.outputs(self._shared)

    async def kv_event_sources(self) -> list[Source]:
        return [Source(0), Source(1)]

    async def setup_metrics(self, ctx: Any) -> Bindings:
        ctx.metrics.register(ctx.component)
        return Bindings(None)

    async def abort(self, context: Any) -> None:
        context.stop_generating()

    async def cleanup(self) -> None:
        if self._worker is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._worker.join)
            self._worker = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.step():
                self._jobs.put(job)


class _Job:
    def __init__(
        self, request: dict[str, Any], context: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._prompt: list[int] = request["token_ids"]
        self._limit: int = request["stop_conditions"]["max_tokens"] or 16
        self._context = context
        self._loop = loop
        self._out: asyncio.Queue[Output] = asyncio.Queue()
        self._sent = 0
        self._dropped = False

    def step(self) -> bool:
        """Decode one token; whether there is more to do."""
        if self._dropped:
            return False
        if self._context.is_stopped():
            return self._end(Output([]), FinishReason.ABORT)
        self._sent += 1
        output = Output([sum(self._prompt) * self._prompt[0] + self._sent])
        if self._sent == self._limit:
            return self._end(output, FinishReason.LENGTH)
        self._put(output)
        return True

    async def outputs(self, shared: Output) -> AsyncIterator[Output]:
        """The stream; every item is the same object with other contents."""
        try:
            while True:
                output = await self._out.get()
                vars(shared).update(vars(output))
                yield shared
                if output.finish_reason is not None:
                    return
        finally:
            self._dropped = True

    def _end(self, output: Output, reason: FinishReason) -> bool:
        output.finish_reason = reason
        output.completion_usage = Usage(len(self._prompt), self._sent)
        self._put(output)
        return False

    def _put(self, output: Output) -> None:
        self._loop.call_soon_threadsafe(self._out.put_nowait, output)

"""One engine that keeps every rule, and one variant of it for every fault.

A variant overrides one hook. Tokens follow from the prompt, so that streams can be told apart.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from enum import Enum, IntEnum
from types import SimpleNamespace
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


class Crowded(Engine):
    """Lets ``crowd`` decide what happens to a request that comes while others are served."""

    def __init__(self) -> None:
        super().__init__()
        self.serving = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.serving += 1
        try:
            async for item in super().generate(request, context):
                for part in self.crowd(item) if self.serving > 1 else [item]:
                    yield part
        finally:
            self.serving -= 1

    def crowd(self, item: Item) -> list[Item]:
        return [item]


def crowding(crowd: Callable[[Item], list[Item]]) -> Callable[[], Engine]:
    class Variant(Crowded):
        def crowd(self, item: Item) -> list[Item]:
            return crowd(item)

    return Variant


class RefusesCompany(Crowded):
    """Its ``generate`` is awaited, and raises when another stream is served."""

    def generate(self, request: Request, context: Any) -> Any:
        if self.serving:
            raise RuntimeError("busy")
        return super().generate(request, context)


class RaisesInCompany(Crowded):
    def crowd(self, item: Item) -> list[Item]:
        raise RuntimeError("out of memory")


class Sleeper(Engine):
    """Waits before the first chunk of a long request, and sees a stop only afterwards."""

    waits = 60.0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if request["stop_conditions"]["max_tokens"] != 10_000:
            async for item in super().generate(request, context):
                yield item
            return
        await self.wait()
        yield chunk(finish="cancelled")

    async def wait(self) -> None:
        await asyncio.sleep(self.waits)


class SwallowsCancelledError(Sleeper):
    """The engine on which ``asyncio.wait_for`` hangs; it ends by itself after a while."""

    async def wait(self) -> None:
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.05)
            except BaseException:  # The fault.
                continue


class SeesTheStopLate(Sleeper):
    waits = 0.4


class BlocksPastTheDeadline(Sleeper):
    async def wait(self) -> None:
        time.sleep(0.4)


class NeverEnds(Engine):
    """Never looks at the context, and never waits."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if request["stop_conditions"]["max_tokens"] != 10_000:
            async for item in super().generate(request, context):
                yield item
            return
        while True:
            yield chunk(7)


class HangsOnClose(Engine):
    """Its streams end well but can't be closed."""

    def generate(self, request: Request, context: Any) -> Any:
        return _WithClose(super().generate(request, context), self.close)

    async def close(self) -> None:
        await asyncio.sleep(60)


class RaisesOnClose(HangsOnClose):
    async def close(self) -> None:
        raise KeyboardInterrupt("closing")


class _WithClose:
    def __init__(self, stream: Any, close: Callable[[], Any]) -> None:
        self._stream = stream
        self.aclose = close

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._stream)


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


class StopsDuringOpening(Engine):
    """``generate`` is a coroutine with several steps, and looks at the context after them."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        for _ in range(5):
            await asyncio.sleep(0)
        if context.is_stopped():
            return self.when_stopped(request, context)
        return super().generate(request, context)

    def when_stopped(self, request: Request, context: Any) -> Any:
        return super().generate(request, context)


class StoppedDuringOpeningRaises(StopsDuringOpening):
    def when_stopped(self, request: Request, context: Any) -> Any:
        raise RuntimeError("stopped")


class StoppedDuringOpeningIsEmpty(StopsDuringOpening):
    async def when_stopped(self, request: Request, context: Any) -> Any:
        return
        yield


class StoppedDuringOpeningIsIgnored(StopsDuringOpening):
    async def when_stopped(self, request: Request, context: Any) -> Any:
        yield chunk(1, finish="length")


class StoppedDuringOpeningErrs(StopsDuringOpening):
    async def when_stopped(self, request: Request, context: Any) -> Any:
        yield chunk(1)
        raise RuntimeError("stopped")


class OpeningHangs(StopsDuringOpening):
    """Waits for ever if the stop comes while it opens."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        stream = await super().generate(request, context)
        if context.is_stopped():
            await asyncio.sleep(60)
        return stream


class StopSeenOnlyAtFirst(Engine):
    """Looks at the context before the first chunk alone."""

    finish = "length"
    pause = 0.0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await asyncio.sleep(0)
        if context.is_stopped():
            yield chunk(finish="cancelled")
            return
        limit = min(limit_of(request), 20)
        for sent in range(1, limit + 1):
            await asyncio.sleep(self.pause)
            last = sent == limit
            yield chunk(token(request["token_ids"], sent), finish=self.finish if last else None)


class StopSeenAfterTheDeadline(StopSeenOnlyAtFirst):
    finish = "cancelled"
    pause = 0.05

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.pause = 0.05 if limit_of(request) > 100 else 0.0
        async for item in super().generate(request, context):
            if item.get("finish_reason") == "cancelled" and limit_of(request) <= 100:
                item["finish_reason"] = "length"
            yield item


class ErrsWhenStopped(Engine):
    """A stop after the first chunk ends in an error."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        sent = 0
        async for item in super().generate(request, context):
            if sent and item.get("finish_reason") == "cancelled":
                raise RuntimeError("stopped")
            sent += 1
            yield item


class EndsWhenStopped(Engine):
    """A stop after the first chunk ends the stream without a word."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        sent = 0
        async for item in super().generate(request, context):
            if sent and item.get("finish_reason") == "cancelled":
                return
            sent += 1
            yield item


class MixesStreams(Engine):
    """Keeps the position in one place: streams that run at once skip each other's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt: list[int] = []

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.prompt = list(request["token_ids"])
        async for item in super().generate(request, context):
            if item["token_ids"]:
                shift = token(self.prompt, 0) - token(request["token_ids"], 0)
                item["token_ids"] = [item["token_ids"][0] + shift]
            yield item


class Random(Engine):
    """Samples, so that the same request gives other tokens each time."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.drawn += 1
        seed = self.drawn
        async for item in super().generate(request, context):
            item["token_ids"] = [value + seed for value in item["token_ids"]]
            yield item


class StopReachesAll(Engine):
    """One stopped context stops every stream that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[Any] = []

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.contexts.append(context)
        try:
            async for item in super().generate(request, self):
                yield item
        finally:
            self.contexts.remove(context)

    def is_stopped(self) -> bool:
        return any(context.is_stopped() for context in self.contexts)


class StopSpoilsNeighbours(StopReachesAll):
    """One stopped context changes the tokens of the others."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.contexts.append(context)
        try:
            async for item in Engine.generate(self, request, context):
                if self.is_stopped() and item["token_ids"]:
                    item["token_ids"] = [31_999]
                yield item
        finally:
            self.contexts.remove(context)


class StopEndsNeighbours(StopReachesAll):
    """One stopped context ends the others without a terminal chunk."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.contexts.append(context)
        try:
            async for item in Engine.generate(self, request, context):
                if self.is_stopped() and not context.is_stopped():
                    return
                yield item
        finally:
            self.contexts.remove(context)


class KeepsTasks(Engine):
    """A dropped stream leaves its task behind, until the cleanup."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[asyncio.Task[None]] = set()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        task = asyncio.create_task(asyncio.sleep(60))
        self.tasks.add(task)
        async for item in super().generate(request, context):
            yield item
        task.cancel()

    async def cleanup(self) -> None:
        for task in self.tasks:
            task.cancel()
        await super().cleanup()


class HasSlots(Engine):
    """A dropped stream keeps its slot; a request without one waits for ever."""

    slots = 3

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Semaphore(self.slots)

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await self.free.acquire()
        async for item in super().generate(request, context):
            yield item
        self.free.release()


class HasAsManySlotsAsDropped(HasSlots):
    slots = 4


class RefusesWithoutSlot(Engine):
    """A dropped stream keeps its slot; a request without one is refused."""

    free = 4

    def generate(self, request: Request, context: Any) -> Any:
        if self.free == 0:
            raise RuntimeError("no slot")
        self.free -= 1
        return self.serve(request, context)

    async def serve(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in super().generate(request, context):
            yield item
        self.free += 1


class CountsInFlight(Engine):
    """Counts its streams, and forgets to count a dropped one down."""

    as_method = False

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @property
    def in_flight(self) -> Any:
        return (lambda: self.count) if self.as_method else self.count

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.count += 1
        async for item in super().generate(request, context):
            yield item
        self.count -= 1


class CountsInFlightByMethod(CountsInFlight):
    as_method = True


class BreaksAfterDrop(Engine):
    """A dropped stream spoils the ones that follow."""

    spoilt = False

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if self.spoilt and limit_of(request) < 100:
            yield chunk(1)
            return
        try:
            async for item in super().generate(request, context):
                yield item
        except GeneratorExit:
            self.spoilt = True
            raise


class RaisesWhenDropped(Engine):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        try:
            async for item in super().generate(request, context):
                yield item
        except GeneratorExit:
            raise RuntimeError("dropped") from None


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


class EndsTasksSoonAfterDrop(KeepsTasks):
    """The task of a dropped stream ends a moment later."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        task = asyncio.create_task(asyncio.sleep(60))
        try:
            async for item in Engine.generate(self, request, context):
                yield item
        finally:
            asyncio.get_running_loop().call_later(0.05, task.cancel)


class BlocksTheLoop(Engine):
    """Each short request keeps the loop for a while."""

    block_s = 0.06

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if limit_of(request) < 100:
            time.sleep(self.block_s)
        async for item in super().generate(request, context):
            yield item


class BlocksTheLoopShortly(BlocksTheLoop):
    block_s = 0.01


class BlocksTheLoopOnce(Engine):
    """Keeps the loop at its first request alone, as one that warms up does."""

    warm = False

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if not self.warm:
            self.warm = True
            time.sleep(0.3)
        async for item in super().generate(request, context):
            yield item


class BlocksForGood(Engine):
    """Blocks its loop in a stream; a test releases it."""

    released = threading.Event()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        yield chunk(5)
        self.released.wait(20)
        yield chunk(6, finish="length")


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


class UsesToThread(Engine):
    """Works in the loop's own executor, whose threads stay."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await asyncio.to_thread(time.sleep, 0)
        async for item in super().generate(request, context):
            yield item


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


class WithAbort(Engine):
    """Stops by ``abort`` alone; the context is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted: set[str] = set()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        look = SimpleNamespace(is_stopped=lambda: context.id() in self.aborted)
        async for item in super().generate(request, look):
            yield item
            await asyncio.sleep(0.01 if limit_of(request) > 100 else 0)

    async def abort(self, context: Any) -> None:
        self.aborted.add(context.id())


class AbortRaises(Engine):
    async def abort(self, context: Any) -> None:
        raise RuntimeError("unknown request")


class AbortHangs(Engine):
    async def abort(self, context: Any) -> None:
        await asyncio.sleep(60)


class RefusesLongRequests(Engine):
    """Its context is short."""

    async def generate(self, request: Request, context: Any) -> Any:  # type: ignore[override]
        if limit_of(request) > 100:
            raise ValueError("longer than the context")
        return super().generate(request, context)


class HangsAfterTerminal(Engine):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        async for item in super().generate(request, context):
            yield item
        await asyncio.sleep(60)


class NeverEndsAtAll(Engine):
    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        while True:
            yield chunk(7)


class SwallowsForAWhile(SwallowsCancelledError):
    """Waits before every stream."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        await self.wait()
        yield chunk(1, finish="length")


class BlocksPastTheLimit(Engine):
    """Blocks its loop for a second in all, then sends a good stream."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        time.sleep(1.0)
        yield chunk(1, finish="length")


class Deadlocks(Engine):
    """Two streams at once wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if self.lock.locked():
            await asyncio.sleep(60)
        async with self.lock:
            async for item in super().generate(request, context):
                yield item


class WaitsForStartToCleanUp(Engine):
    async def cleanup(self) -> None:
        if not vars(self).get("started"):
            await asyncio.sleep(60)

    async def start(self, worker_id: int) -> Any:
        self.started = True
        return await super().start(worker_id)


class RandomForOnePrompt(Random):
    """Samples for one request, and decodes greedily for the others."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        serve = Random if request["token_ids"] == [1, 2, 3] else Engine
        async for item in serve.generate(self, request, context):
            yield item


class RandomAndStopReachesAll(StopReachesAll):
    """Samples, and one stopped context stops every stream."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        self.drawn += 1
        seed = self.drawn
        async for item in super().generate(request, context):
            item["token_ids"] = [value + seed for value in item["token_ids"]]
            yield item


class LongRequestsGiveNothing(Engine):
    """Ends a long request at once, unless it is stopped by then."""

    async def generate(self, request: Request, context: Any) -> AsyncIterator[Item]:
        if limit_of(request) > 100 and not context.is_stopped():
            return
        async for item in super().generate(request, context):
            yield item


class WithoutClose(Engine):
    """Its streams have no ``aclose``."""

    def generate(self, request: Request, context: Any) -> Any:
        stream = _WithClose(super().generate(request, context), lambda: None)
        del stream.aclose
        return stream

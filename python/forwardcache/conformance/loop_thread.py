"""An event loop in a thread of its own, which nothing that runs in it can keep from being left."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Self, TypeVar

from forwardcache.conformance.guard import release, unfinished_attempts
from forwardcache.conformance.leaving import CALLS

__all__ = ["LoopBlockedError", "LoopThread"]

T = TypeVar("T")
_JOIN_S = 0.3
_LOOK_S = 0.5
_LAST_WORDS_S = 0.05
"""What was just cancelled may still begin a cleanup."""

_LAST_THINGS_S = 10.0
_abandoned: set[asyncio.Task[Any]] = set()


class LoopBlockedError(Exception):
    """The loop did not report in time; the text is the stack of its thread."""


class LoopThread:
    """A running event loop in a daemon thread; a context manager that ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._blocked = False
        self._thread = threading.Thread(target=self._main, name=CALLS, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], until: Callable[[], float]) -> T:
        """The result of ``work``, which runs in the loop.

        Args:
            work: What to run.
            until: When it must be done, in the seconds of ``time.monotonic``; asked again and
                again, as work that goes on may move it.

        Raises:
            LoopBlockedError: that moment has passed.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not _done_within(future, min(until() - time.monotonic(), _LOOK_S)):
                if time.monotonic() >= until():
                    self._blocked = True
                    raise LoopBlockedError(self.stack())
        except KeyboardInterrupt:
            future.cancel()
            raise
        return future.result()

    def stack(self) -> str:
        """Where the loop's thread is now."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else "(its thread has ended)"

    def close(self) -> None:
        """End the loop; one that is blocked ends when it can, and nobody waits for it."""
        self._closing = True
        with suppress(RuntimeError):  # It is closed already.
            self._loop.call_soon_threadsafe(self._loop.stop)
        if not self._blocked:
            self._thread.join(_JOIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._closing:
            # A task of the engine that raises SystemExit ends the loop's run, not our work.
            with suppress(BaseException):
                self._loop.run_forever()
        # The verdict is out; what the engine still raises while it is cut off is no news.
        self._loop.set_exception_handler(lambda loop, context: None)
        with suppress(BaseException):
            self._loop.run_until_complete(self._last_things())
        # Destroying a task that swallows every exception would be reported as an error of its own.
        _abandoned.update(asyncio.all_tasks(self._loop))
        self._loop.close()

    async def _last_things(self) -> None:
        """Let cleanups end that nobody waited for, then cancel what is left."""
        this = asyncio.current_task()
        if others := asyncio.all_tasks() - {this}:
            await asyncio.wait(others, timeout=_LAST_WORDS_S)
        if unfinished := unfinished_attempts():
            await asyncio.wait(unfinished, timeout=_LAST_THINGS_S)
        await release(asyncio.all_tasks() - {this})
        closing = asyncio.get_running_loop().create_task(self._loop.shutdown_asyncgens())
        await asyncio.wait([closing], timeout=_JOIN_S)


def _done_within(future: Future[Any], seconds: float) -> bool:
    return bool(wait([future], timeout=max(seconds, 0.001)).done)

"""A thread that makes an engine's calls, so that one which never comes back holds nobody up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from forwardcache.conformance.guard import OverdueError
from forwardcache.conformance.leaving import CALLS

__all__ = ["Worker"]

_Call = tuple[Callable[[], Any], Future[Any]]


class Worker:
    """Makes calls one after another, all in one thread: what an engine keeps by thread stays.

    The thread is a daemon: a call that hangs can't be ended, but it is left behind.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], Any], seconds: float) -> Any:
        """What ``call`` gives.

        Args:
            call: What is called.
            seconds: How long it is waited for.

        Raises:
            OverdueError: it has not come back. Whoever calls again waits for it too.
            BaseException: what it raised.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=CALLS, daemon=True)
            self._thread.start()
        future: Future[Any] = Future()
        self._calls.put((call, future))
        if not wait([future], timeout=seconds).done:
            raise OverdueError
        return future.result()

    def close(self) -> None:
        """End the thread once what it is at is done."""
        self._calls.put(None)

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            call, future = asked
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            # Neither outlives its call here: an engine may be large.
            del asked, call, future

"""Calls of a client library that nobody waits for longer than told.

A library's own time-outs bound each read from a socket, not the call: a server that sends a byte
now and then, or a name that no server resolves, holds it for seconds. So calls run in a thread of
their own, and whoever asked goes on when the time is up. The thread, with its connection, is then
given up: what it still waits for is cut off, and it ends by itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
Job = tuple[Callable[[Any], Any], "Future[Any]"]


class BusyError(Exception):
    """Other threads' calls took all the time there was; the connection itself may be well."""


class RequestWorker:
    """One connection and the thread that uses it; one call at a time.

    Args:
        connect: Makes the client; called at once, so it may not wait for the network.
        disconnect: Cuts a client off, whatever it is waiting for.
    """

    def __init__(self, connect: Callable[[], Any], disconnect: Callable[[Any], None]) -> None:
        self._client = connect()
        self._disconnect = disconnect
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._turn = threading.Lock()
        self._end = weakref.finalize(self, self._jobs.put, None)
        # A daemon, since a call that hangs may not hold up the end of the process.
        arguments = self._jobs, self._client
        threading.Thread(
            target=_work, args=arguments, name="forwardcache-request", daemon=True
        ).start()

    def call(self, job: Callable[[Any], Result], timeout_s: float) -> Result:
        """What ``job(client)`` returns, or its error.

        Args:
            job: Runs in the worker's thread.
            timeout_s: Longest wait for it, and before that for its turn.

        Raises:
            BusyError: there was no turn in time.
            TimeoutError: there was no end in time; this worker is of no more use.
        """
        if not self._turn.acquire(timeout=timeout_s):
            raise BusyError
        try:
            future: Future[Result] = Future()
            self._jobs.put((job, future))
            return future.result(timeout_s)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Cuts the connection and ends the thread; does not wait for it."""
        self._end()
        with suppress(Exception):
            self._disconnect(self._client)


def _work(jobs: SimpleQueue[Job | None], client: Any) -> None:
    while (job := jobs.get()) is not None:
        work, future = job
        try:
            future.set_result(work(client))
        except BaseException as error:
            future.set_exception(error)
        # Otherwise the last result would live until the next call.
        del job, work, future

"""Calls of a client library that nobody waits for longer than told.

A library's own time-outs bound each read from a socket, not the call: a server that sends a byte
now and then, or a name that no server resolves, holds it for seconds. So calls run in a thread of
their own, and whoever asked goes on when the time is up. The thread, with its connection, is then
given up: what it still waits for is cut off, and it ends by itself.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Job = tuple[Callable[[Any], Any], "Future[Any]"]


class BusyError(Exception):
    """Other threads' calls took all the time there was; the connection itself may be well."""


class Pending(Generic[Result]):
    """A call that has begun.

    Args:
        future: What it will have given.
        began: When its caller began to wait, in seconds of ``time.perf_counter``.
    """

    def __init__(self, future: Future[Result], began: float) -> None:
        self._future, self._began = future, began
        self._ended = float("inf")
        future.add_done_callback(self._end)

    def result(self, until: float) -> Result:
        """What the call gave, or its error.

        Args:
            until: The latest end of the wait for it, in seconds of ``time.perf_counter``.

        Raises:
            TimeoutError: there was no end by then; the worker is of no more use.
        """
        return self._future.result(max(until - time.perf_counter(), 0.0))

    @property
    def took_s(self) -> float:
        """Seconds to its end, or to now, the wait for its turn among them."""
        return min(self._ended, time.perf_counter()) - self._began

    def _end(self, _: object) -> None:
        self._ended = time.perf_counter()


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
        # Nothing may be handed over behind the word that ends the thread: it would never be done.
        self._gate, self._is_closed = threading.Lock(), False
        self._end = weakref.finalize(self, self._jobs.put, None)
        # A daemon, since a call that hangs may not hold up the end of the process.
        arguments = self._jobs, self._client
        threading.Thread(
            target=_work, args=arguments, name="forwardcache-request", daemon=True
        ).start()

    def begin(self, job: Callable[[Any], Result], until: float) -> Pending[Result]:
        """Begins ``job(client)`` in the worker's thread.

        Args:
            job: What to do; the next one's turn comes when it has ended.
            until: The latest end of the wait for its turn, in seconds of ``time.perf_counter``.

        Raises:
            BusyError: there was no turn by then, or the worker was closed meanwhile.
        """
        began = time.perf_counter()
        if not self._turn.acquire(timeout=max(until - began, 0.0)):
            raise BusyError
        future: Future[Result] = Future()
        turn = self._turn
        future.add_done_callback(lambda _: turn.release())
        pending = Pending(future, began)
        with self._gate:
            if self._is_closed:
                turn.release()
                raise BusyError
            self._jobs.put((job, future))
        return pending

    def close(self) -> None:
        """Cuts the connection and ends the thread; does not wait for it."""
        with self._gate:
            self._is_closed = True
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

"""Calls an engine's methods, plain or async, in turn or at once, without trusting them."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.conformance.adapter.worker import Worker
from forwardcache.conformance.guard import OverdueError, describe
from forwardcache.conformance.leaving import CALLS

__all__ = ["Asked", "Caller", "Given", "SubjectRaisedError"]

Asked = tuple[tuple[int, ...], str | None]
"""Token ids, and the adapter's name; None for the base."""

Given = NDArray[np.float64]
"""Log-probabilities of the tokens after the first, nats."""


_Call = partial[Any]

_ALIVE_S = 2.0
"""A loop that is not blocked comes round in far less."""


class SubjectRaisedError(Exception):
    """A method raised, or gave what it may not give; the text says what."""


class Caller:
    """An engine as the kit asks it.

    Args:
        subject: What has ``load_adapter``, ``unload_adapter`` and ``logprobs``, plain or async.
        timeout: Seconds after which a call, or calls at once, have failed.

    Attributes:
        hangs: Which plain call never came back; None while none is known. Nothing more is asked
            then: each further call could wait for that one.
    """

    def __init__(self, subject: Any, timeout: float) -> None:
        self._subject = subject
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._worker = Worker()
        self.hangs: str | None = None

    def load(self, name: str, folder: str) -> None:
        """Have an adapter loaded.

        Raises:
            SubjectRaisedError: the engine raised.
        """
        self._called("load_adapter", name, folder)

    def unload(self, name: str) -> None:
        """Have an adapter dropped.

        Raises:
            SubjectRaisedError: the engine raised.
        """
        self._called("unload_adapter", name)

    def logprobs(self, ids: Sequence[int], adapter: str | None) -> Given:
        """What the engine gives for one text.

        Raises:
            SubjectRaisedError: it raised, or gave no list of the right length.
        """
        return self._logprobs(ids, adapter, self._in_turn)

    def together(self, asked: Sequence[Asked]) -> list[Given | SubjectRaisedError]:
        """What it gives for several texts that are asked for at once: tasks, or threads.

        Returns:
            In their order; what was raised, in the place of its text.
        """
        if inspect.iscoroutinefunction(getattr(self._subject, "logprobs", None)):
            return self._as_tasks(asked)
        found: list[Given | SubjectRaisedError] = [
            SubjectRaisedError(self._overdue("logprobs")) for _ in asked
        ]
        begin = threading.Barrier(len(asked))

        def ask(index: int) -> None:
            begin.wait()
            try:
                found[index] = self._logprobs(*asked[index], self._at_once)
            except SubjectRaisedError as error:
                found[index] = error

        threads = [_thread(ask, n) for n in range(len(asked))]
        until = time.monotonic() + self._timeout
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
        if any(thread.is_alive() for thread in threads):
            self.hangs = "logprobs, asked for several texts at once"
        return list(found)

    def close(self) -> None:
        """Let the engine go; what its ``close`` raises hides no verdict."""
        with suppress(Exception, SystemExit):
            close = getattr(self._subject, "close", None)
            if callable(close) and self.hangs is None:
                self._resolved(self._in_turn("close", partial(close)))
        self._worker.close()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _as_tasks(self, asked: Sequence[Asked]) -> list[Given | SubjectRaisedError]:
        async def one(ids: Sequence[int], adapter: str | None) -> Given | SubjectRaisedError:
            try:
                given = await self._subject.logprobs(list(ids), adapter=adapter)
                return checked(given, len(ids) - 1)
            except SubjectRaisedError as error:
                return error
            except Exception as error:
                return SubjectRaisedError(describe(error))

        async def every() -> list[Given | SubjectRaisedError]:
            return await asyncio.gather(*(one(*each) for each in asked))

        try:
            found: list[Given | SubjectRaisedError] = self._resolved(every())
        except OverdueError:
            return [SubjectRaisedError(self._overdue("logprobs")) for _ in asked]
        return found

    def _logprobs(
        self, ids: Sequence[int], adapter: str | None, make: Callable[[str, _Call], Any]
    ) -> Given:
        given = self._called("logprobs", list(ids), adapter=adapter, make=make)
        return checked(given, len(ids) - 1)

    def _called(
        self,
        method: str,
        *given: Any,
        make: Callable[[str, _Call], Any] | None = None,
        **named: Any,
    ) -> Any:
        if self.hangs is not None:
            raise SubjectRaisedError(f"{method} was not called: {self.hangs} never came back")
        try:
            call = partial(getattr(self._subject, method), *given, **named)
            return self._resolved((make or self._in_turn)(method, call))
        except OverdueError as error:
            raise SubjectRaisedError(self._overdue(method)) from error
        except (Exception, SystemExit) as error:
            raise SubjectRaisedError(f"{method} raised {describe(error)}") from error

    def _in_turn(self, method: str, call: _Call) -> Any:
        """What a call gives, made in the one thread for calls that come one after another."""
        if inspect.iscoroutinefunction(call.func):
            return call()
        try:
            return self._worker.run(call, self._timeout)
        except OverdueError:
            self.hangs = method
            raise

    @staticmethod
    def _at_once(_method: str, call: _Call) -> Any:
        """What a call gives, made in a thread that is for it alone."""
        return call()

    def _overdue(self, method: str) -> str:
        return f"{method} gave no answer within {self._timeout:g} s"

    def _resolved(self, value: Any) -> Any:
        """``value``, or what it comes to in a loop that lives as long as the engine."""
        if not inspect.isawaitable(value):
            return value
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                _thread(_forever, self._loop)

        async def awaited() -> Any:
            return await value

        future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        if not wait([future], timeout=self._timeout).done:
            future.cancel()
            self._look_at(self._loop)
            raise OverdueError
        return future.result()

    def _look_at(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note it if what ran out of time keeps the loop from everything else."""
        passed = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
        if not wait([passed], timeout=_ALIVE_S).done:
            self.hangs = "what blocks the event loop"


def _thread(function: Callable[..., None], *given: Any) -> threading.Thread:
    """A thread for calls of the engine's, which has begun."""
    thread = threading.Thread(target=function, args=given, name=CALLS, daemon=True)
    thread.start()
    return thread


def checked(given: Any, length: int) -> Given:
    """``given`` as an array.

    Args:
        given: What an engine gave.
        length: How many values it must have.

    Raises:
        SubjectRaisedError: it is no list of so many numbers.
    """
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SubjectRaisedError(f"logprobs gave no numbers: {given!r:.100}") from error
    if values.shape != (length,):
        raise SubjectRaisedError(
            f"logprobs gave values of shape {list(values.shape)} for {length + 1} tokens; "
            f"[{length}] is right, one for each token after the first"
        )
    return values


def _forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()

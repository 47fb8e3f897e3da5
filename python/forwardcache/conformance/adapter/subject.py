"""Calls an engine's methods, plain or async, in turn or at once, without trusting them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.conformance.guard import describe

__all__ = ["Asked", "Caller", "Given", "SubjectRaisedError"]

Asked = tuple[tuple[int, ...], str | None]
"""Token ids, and the adapter's name; None for the base."""

Given = NDArray[np.float64]
"""Log-probabilities of the tokens after the first, nats."""


class SubjectRaisedError(Exception):
    """A method raised, or gave what it may not give; the text says what."""


class Caller:
    """An engine as the kit asks it.

    Args:
        subject: What has ``load_adapter``, ``unload_adapter`` and ``logprobs``, plain or async.
        timeout: Seconds after which an awaitable, or requests that run at once, have failed.
    """

    def __init__(self, subject: Any, timeout: float) -> None:
        self._subject = subject
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

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
        return checked(self._called("logprobs", list(ids), adapter=adapter), len(ids) - 1)

    def together(self, asked: Sequence[Asked]) -> list[Given | SubjectRaisedError]:
        """What it gives for several texts that are asked for at once: tasks, or threads.

        Returns:
            In their order; what was raised, in the place of its text.
        """
        if inspect.iscoroutinefunction(getattr(self._subject, "logprobs", None)):
            return self._as_tasks(asked)
        found: list[Given | SubjectRaisedError] = [
            SubjectRaisedError(f"no answer within {self._timeout:g} s") for _ in asked
        ]
        begin = threading.Barrier(len(asked))

        def ask(index: int) -> None:
            begin.wait()
            try:
                found[index] = self.logprobs(*asked[index])
            except SubjectRaisedError as error:
                found[index] = error

        threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self._timeout)
        return list(found)

    def close(self) -> None:
        """Let the engine go; what its ``close`` raises hides no verdict."""
        with suppress(Exception, SystemExit):
            close = getattr(self._subject, "close", None)
            if callable(close):
                self._resolved(close())
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
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
            return [SubjectRaisedError(why) for _ in asked]
        return found

    def _called(self, method: str, *given: Any, **named: Any) -> Any:
        try:
            return self._resolved(getattr(self._subject, method)(*given, **named))
        except TimeoutError as error:
            why = f"{method} gave no answer within {self._timeout:g} s"
            raise SubjectRaisedError(why) from error
        except (Exception, SystemExit) as error:
            raise SubjectRaisedError(f"{method} raised {describe(error)}") from error

    def _resolved(self, value: Any) -> Any:
        """``value``, or what it comes to in a loop that lives as long as the engine."""
        if not inspect.isawaitable(value):
            return value
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_forever, args=(self._loop,), daemon=True).start()

        async def awaited() -> Any:
            return await value

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(self._timeout)


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

"""The context that comes with a request: who it is, and whether to stop.

It may be stopped from any thread. The methods that Dynamo's own engines call in addition to those
are here and do nothing.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

__all__ = ["MockContext", "cancelling_context", "mock_context"]


class MockContext:
    """A request's context that a test can stop; every method may be called from any thread.

    Args:
        id: The request's id; a new one if it is None.
        metadata: What comes with the request; copied.
    """

    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None

    def __init__(self, id: str | None = None, metadata: dict[str, str] | None = None) -> None:
        self.metadata: dict[str, str] = dict(metadata or {})
        self._id = id or uuid.uuid4().hex
        self._lock = threading.Lock()
        self._stopped = False
        self._killed = False
        self._waiting: list[asyncio.Future[bool]] = []

    def id(self) -> str:
        """The request's id, unique to this context unless it was given."""
        return self._id

    def is_stopped(self) -> bool:
        """Whether generation is to end, by ``stop_generating`` or ``kill``."""
        return self._stopped

    def is_killed(self) -> bool:
        """Whether ``kill`` was called."""
        return self._killed

    def stop_generating(self) -> None:
        """Ask the engine to end this stream; once is enough."""
        with self._lock:
            self._stopped = True
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            _resolve_from_any_thread(future)

    def kill(self) -> None:
        """Stop, and say that nobody waits for the rest."""
        self._killed = True
        self.stop_generating()

    def async_killed_or_stopped(self) -> asyncio.Future[bool]:
        """A future of the running loop that is done once the context is stopped.

        A future and not a coroutine, as in Dynamo: engines hand it to ``asyncio.wait``.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        with self._lock:
            if not self._stopped:
                self._waiting.append(future)
                return future
        future.set_result(True)
        return future

    def detached(self, id: str | None = None) -> MockContext:
        """A context with the same metadata that is stopped on its own.

        Args:
            id: Its id; a new one if it is None.
        """
        return MockContext(id, self.metadata)

    def notify_first_token(self) -> None:
        """Nothing waits for the first token here."""

    def trace_headers(self) -> dict[str, str]:
        """No headers: nothing is traced."""
        return {}

    def start_span(self, *args: Any, **kwargs: Any) -> Inert:
        """A span that records nothing.

        Args:
            *args: Whatever an engine gives; ignored.
            **kwargs: Likewise.
        """
        return Inert()

    def current_span(self) -> Inert:
        """A span that records nothing."""
        return Inert()

    def __repr__(self) -> str:
        return f"MockContext(id={self._id!r}, stopped={self._stopped})"


class Inert:
    """Takes any call, is a context manager of both kinds, and does nothing."""

    def __getattr__(self, name: str) -> Inert:
        if name.startswith("__"):
            raise AttributeError(name)
        return Inert()

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __enter__(self) -> Inert:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    async def __aenter__(self) -> Inert:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None


def mock_context() -> MockContext:
    """A fresh context that nobody has stopped."""
    return MockContext()


def cancelling_context(after: float) -> MockContext:
    """A context that is stopped by itself, from another thread.

    A thread's timer and not the loop's: it fires while an engine blocks its loop.

    Args:
        after: Seconds from now.

    Returns:
        The context, not stopped yet.
    """
    context = MockContext()
    timer = threading.Timer(after, context.stop_generating)
    timer.daemon = True
    timer.start()
    return context


def _resolve_from_any_thread(future: asyncio.Future[bool]) -> None:
    try:
        future.get_loop().call_soon_threadsafe(_resolve, future)
    except RuntimeError:  # The loop is closed: whoever waited is gone.
        return


def _resolve(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)

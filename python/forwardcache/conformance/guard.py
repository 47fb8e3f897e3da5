"""Runs an engine's code without trusting it: no exception escapes, no wait is without an end.

``asyncio.wait_for`` waits for a cancelled task to end, and so hangs on an engine that swallows
``CancelledError``. Here a task that is out of time is cancelled, waited for during a short grace
and then *released*: nobody waits for it any more, and what it does later is not judged.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

__all__ = [
    "GRACE_S",
    "EngineRaisedError",
    "OverdueError",
    "adopt_running_task",
    "all_of",
    "attempt",
    "bounded",
    "call",
    "describe",
    "guarded",
    "is_own_task",
    "is_released",
    "offers",
    "own_task",
    "release",
    "unfinished_attempts",
    "why_not_checked",
]

GRACE_S = 0.15
"""How long a cancelled task may take to end before it is left alone."""

T = TypeVar("T")
_attempts: set[asyncio.Task[Any]] = set()
_own: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
_released: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


class EngineRaisedError(Exception):
    """An engine's method raised; the text describes what, the cause is the exception itself."""


class OverdueError(Exception):
    """Work was not done in time."""


def describe(error: BaseException) -> str:
    """Type and text of ``error``, also where its text can't be made."""
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be made)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def why_not_checked(error: BaseException) -> str:
    """What kept a kit from checking: wrong use says so itself, of all else the type tells more."""
    return str(error) if isinstance(error, ValueError) else describe(error)


def offers(engine: object, method: str) -> bool:
    """Whether ``engine`` has ``method``; a lookup that raises counts, so that the call shows it."""
    try:
        return callable(getattr(engine, method, None))
    except Exception:
        return True


async def call(engine: object, method: str, *args: Any) -> Any:
    """Await ``engine.method(*args)``.

    Raises:
        EngineRaisedError: as ``guarded`` does.
    """
    return await guarded(lambda: getattr(engine, method)(*args))


async def guarded(work: Callable[[], Awaitable[T]]) -> T:
    """Await ``work()``, which runs the engine's code.

    Raises:
        EngineRaisedError: whatever it raised, ``SystemExit`` included, and a ``CancelledError``
            that the kit did not cause.
    """
    try:
        return await work()
    except BaseException as error:
        if is_released():
            raise
        raise EngineRaisedError(describe(error)) from error


def own_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task for ``work`` that is known to be the kit's own."""
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(_retrieve)
    _own.add(task)
    return task


def is_own_task(task: asyncio.Task[Any]) -> bool:
    """Whether the kit made ``task``, and not the engine."""
    return task in _own


def adopt_running_task() -> None:
    """Make the running task one of the kit's own."""
    task = asyncio.current_task()
    if task is not None:
        _own.add(task)


def is_released() -> bool:
    """Whether the kit has given up on the running task, so that what it raises is our doing."""
    try:
        return asyncio.current_task() in _released
    except RuntimeError:  # No loop is running: the task is being destroyed.
        return True


async def release(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks``, wait for them during the grace, then leave them alone."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        _released.add(task)
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=GRACE_S)


async def bounded(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run ``work`` for at most ``seconds``, by the wall clock too.

    Raises:
        OverdueError: it took longer, whether it is done or not: an engine that blocks the loop
            also holds up the timer.
    """
    task = own_task(work)
    began = time.monotonic()
    try:
        await asyncio.wait([task], timeout=seconds)
    except BaseException:
        await release([task])
        raise
    if task.done() and time.monotonic() - began <= seconds:
        return task.result()
    await release([task])
    raise OverdueError


async def attempt(work: Coroutine[Any, Any, Any], seconds: float) -> asyncio.Task[Any]:
    """Run ``work`` and come back after ``seconds`` at the latest; it goes on, uncancelled."""
    task = own_task(work)
    _attempts.add(task)
    task.add_done_callback(_attempts.discard)
    await asyncio.wait([task], timeout=seconds)
    return task


def unfinished_attempts() -> list[asyncio.Task[Any]]:
    """The attempts in the running loop that still go on."""
    loop = asyncio.get_running_loop()
    return [task for task in _attempts if task.get_loop() is loop]


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run ``works`` at once and give their results in order; they all finish first.

    Raises:
        Exception: what the first of them, in order, has raised.
    """
    tasks = [own_task(work) for work in works]
    try:
        await asyncio.wait(tasks)
    except BaseException:
        await release(tasks)
        raise
    return [task.result() for task in tasks]


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at the outcome, so that asyncio does not report one that nobody waits for."""
    if not task.cancelled():
        task.exception()

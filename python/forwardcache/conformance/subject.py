"""The engine under test: how it is made, asked and put away, and what the checks know of it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from forwardcache.conformance.context import mock_context
from forwardcache.conformance.guard import (
    EngineRaisedError,
    call,
    describe,
    is_own_task,
    offers,
)
from forwardcache.conformance.stream import Reception, Stream, open_stream, receive

__all__ = [
    "CheckSkippedError",
    "FactoryRaisedError",
    "Options",
    "Residue",
    "Settings",
    "Subject",
    "residue",
]

PROMPT = (1, 2, 3)
LONG_MAX_TOKENS = 10_000
"""An engine that ignores a stop can't be done by itself before the deadline."""

Factory = Callable[[], Any]


class FactoryRaisedError(Exception):
    """The factory raised; the cause is its exception, and it is no verdict about an engine."""


class CheckSkippedError(Exception):
    """The check can't be judged here; the text says why."""


class Options(TypedDict, total=False):
    """The keywords of ``run_conformance``, for functions that pass them on."""

    profile: str
    cancel_deadline: float
    max_tokens: int | None
    concurrency: int
    context_factory: Callable[[], Any]
    check_timeout: float
    drive_abort: bool
    failing_factory: Factory | None
    report_all: bool
    block_limit: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the checks are run; see ``run_conformance`` for the meanings.

    Raises:
        ValueError: a number is out of range.
    """

    profile: str = "seed"
    cancel_deadline: float = 2.0
    max_tokens: int | None = 8
    concurrency: int = 8
    context_factory: Callable[[], Any] = mock_context
    check_timeout: float = 120.0
    drive_abort: bool = False
    failing_factory: Factory | None = None
    report_all: bool = False
    block_limit: float = 0.25

    def __post_init__(self) -> None:
        for name in ("cancel_deadline", "check_timeout", "block_limit", "concurrency"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be positive or None, got {self.max_tokens!r}")


@dataclass(frozen=True)
class Residue:
    """The engine's tasks and non-daemon threads at one moment."""

    tasks: frozenset[asyncio.Task[Any]] = frozenset()
    threads: frozenset[threading.Thread] = frozenset()

    def since(self, before: Residue) -> Residue:
        """What has come since ``before``."""
        return Residue(self.tasks - before.tasks, self.threads - before.threads)

    def task_names(self) -> tuple[str, ...]:
        """Name and coroutine of each task."""
        return tuple(sorted(f"{task.get_name()} {task.get_coro()!r:.80}" for task in self.tasks))

    def thread_names(self) -> tuple[str, ...]:
        """Name of each thread."""
        return tuple(sorted(thread.name for thread in self.threads))

    def __bool__(self) -> bool:
        return bool(self.tasks or self.threads)


def residue() -> Residue:
    """The tasks of the running loop that the kit didn't make, and all non-daemon threads."""
    loop = asyncio.get_running_loop()
    tasks = {task for task in asyncio.all_tasks(loop) if not is_own_task(task)}
    threads = {thread for thread in threading.enumerate() if not thread.daemon}
    return Residue(frozenset(tasks), frozenset(threads - _executor_threads(loop)))


def _executor_threads(loop: asyncio.AbstractEventLoop) -> set[threading.Thread]:
    """The threads behind ``asyncio.to_thread``: they belong to the loop, and end with it."""
    executor = getattr(loop, "_default_executor", None)
    return set(getattr(executor, "_threads", ()))


class Subject:
    """One engine, from the factory to its cleanup.

    Attributes:
        engine: The engine, or None before it is made and after its cleanup.
        model: The model's name from its config.
        receptions: The streams of the running check, the newest last.
        before: What ran before the engine was made.
        alone: What requests gave alone, by prompt; for the checks that compare with it.
    """

    def __init__(self, factory: Factory, settings: Settings) -> None:
        self.factory = factory
        self.settings = settings
        self.engine: Any = None
        self.started = False
        self.model = ""
        self.receptions: list[Reception] = []
        self.before: Residue | None = None
        self.alone: dict[tuple[int, ...], Any] = {}

    async def make(self) -> Any:
        """A new engine from the factory.

        Raises:
            FactoryRaisedError: the factory raised.
        """
        return await made_by(self.factory)

    async def renew(self) -> None:
        """Make the engine under test."""
        self.before = residue()
        self.engine = await self.make()

    def context(self) -> Any:
        """A fresh context."""
        return self.settings.context_factory()

    def request(
        self, prompt: tuple[int, ...] = PROMPT, *, max_tokens: int | None = None
    ) -> dict[str, Any]:
        """A fresh request; ``max_tokens`` is that of the settings unless it is given."""
        return {
            "model": self.model,
            "token_ids": list(prompt),
            "stop_conditions": {"max_tokens": max_tokens or self.settings.max_tokens},
            "sampling_options": {},
            "output_options": {},
        }

    async def open(
        self, request: dict[str, Any] | None = None, context: Any = None
    ) -> tuple[Stream, Reception]:
        """Open a stream for ``request``; by default a short one with a context of its own.

        Raises:
            EngineRaisedError: ``generate`` raised.
        """
        stream = await open_stream(
            self.engine, request or self.request(), context or self.context()
        )
        reception = Reception()
        self.receptions.append(reception)
        return stream, reception

    async def collect(
        self, request: dict[str, Any] | None = None, *, take: int | None = None
    ) -> Reception:
        """Receive the whole stream for ``request``, or its first ``take`` items.

        Raises:
            EngineRaisedError: ``generate`` raised.
        """
        stream, reception = await self.open(request)
        await receive(stream, reception, take=take)
        return reception

    async def abort(self, context: Any) -> str | None:
        """Call ``abort`` where that is asked for and offered; what it raised."""
        if not (self.settings.drive_abort and offers(self.engine, "abort")):
            return None
        try:
            await call(self.engine, "abort", context)
        except EngineRaisedError as error:
            return str(error)
        return None


async def made_by(factory: Factory) -> Any:
    """What ``factory`` gives, awaited where it is a coroutine function.

    Raises:
        FactoryRaisedError: the factory raised.
    """
    try:
        made = factory()
        return await made if inspect.isawaitable(made) else made
    except BaseException as error:
        raise FactoryRaisedError(describe(error)) from error

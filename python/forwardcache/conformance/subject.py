"""The engine under test: how it is made, asked and put away, and what the checks know of it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypedDict

from forwardcache.conformance.chunk import Chunk, field_of, read_chunk
from forwardcache.conformance.context import mock_context
from forwardcache.conformance.expected import Given
from forwardcache.conformance.guard import (
    EngineRaisedError,
    call,
    describe,
    is_own_task,
    offers,
)
from forwardcache.conformance.stream import Reception, Stream, open_stream, receive
from forwardcache.conformance.threads import started_by, watch

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
Reader = Callable[[Any, float], Chunk]


class FactoryRaisedError(Exception):
    """The factory raised; the cause is its exception, and it is no verdict about an engine."""


class CheckSkippedError(Exception):
    """The check can't be judged here; the text says why."""


class Options(TypedDict, total=False):
    """The keywords of ``run_conformance``, for functions that pass them on."""

    profile: str
    cancel_deadline: float
    max_tokens: int | None
    long_max_tokens: int | None
    concurrency: int
    context_factory: Callable[[], Any]
    check_timeout: float
    drive_abort: bool
    failing_factory: Factory | None
    report_all: bool
    block_limit: float
    expected_failures: Given


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the checks are run; see ``run_conformance`` for the meanings.

    Raises:
        ValueError: a number is out of range.
    """

    profile: str = "seed"
    cancel_deadline: float = 2.0
    max_tokens: int | None = 8
    long_max_tokens: int | None = None
    concurrency: int = 8
    context_factory: Callable[[], Any] = mock_context
    check_timeout: float = 120.0
    drive_abort: bool = False
    failing_factory: Factory | None = None
    report_all: bool = False
    block_limit: float = 0.25
    expected_failures: Given = None

    def __post_init__(self) -> None:
        for name in ("cancel_deadline", "check_timeout", "block_limit", "concurrency"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in ("max_tokens", "long_max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive or None, got {value!r}")


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
    """The tasks of the running loop that the kit didn't make, and its non-daemon threads.

    A thread that began outside the loop is another tool's.
    """
    loop = asyncio.get_running_loop()
    tasks = {task for task in asyncio.all_tasks(loop) if not is_own_task(task)}
    threads = {thread for thread in started_by(loop) if not thread.daemon}
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
        context_length: Most tokens of prompt and answer together, as the engine says itself; None
            where it says nothing.
        registers_tokens: Whether its config has ``llm``, as those of engines with tokens may.
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
        self.context_length: int | None = None
        self.registers_tokens = False
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
        watch(asyncio.get_running_loop())
        self.before = residue()
        self.engine = await self.make()

    def note_config(self, config: Any) -> str:
        """Keep what ``start`` gave; the model's name, empty where there is none."""
        self.started = True
        model = field_of(config, "model")
        self.context_length = _context_length(config, self.engine)
        with suppress(Exception):
            self.registers_tokens = field_of(config, "llm") is not None
        return "" if model is None else str(model)

    def room(self, prompt: tuple[int, ...] = PROMPT) -> int:
        """Most tokens that an answer to ``prompt`` may be asked to have.

        The seed asks for as many as its origin does, whatever the engine says of its context.
        """
        asked = self.settings.long_max_tokens or LONG_MAX_TOKENS
        if self.settings.profile == "seed" or self.context_length is None:
            return asked
        return max(1, min(asked, self.context_length - len(prompt)))

    def long_request(self) -> dict[str, Any]:
        """A request that an engine can't be done with before it is stopped."""
        return self.request(max_tokens=self.room())

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
        self,
        request: dict[str, Any] | None = None,
        context: Any = None,
        *,
        read: Reader = read_chunk,
    ) -> tuple[Stream, Reception]:
        """Open a stream for ``request``; by default a short one with a context of its own.

        Raises:
            EngineRaisedError: ``generate`` raised.
        """
        stream = await open_stream(
            self.engine, request or self.request(), context or self.context()
        )
        reception = Reception(read)
        self.receptions.append(reception)
        return stream, reception

    async def collect(
        self,
        request: dict[str, Any] | None = None,
        *,
        take: int | None = None,
        read: Reader = read_chunk,
    ) -> Reception:
        """Receive the whole stream for ``request``, or its first ``take`` items.

        Raises:
            EngineRaisedError: ``generate`` raised.
        """
        stream, reception = await self.open(request, read=read)
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


def _context_length(config: Any, engine: Any) -> int | None:
    """The first whole number that is said; what can't be read counts as not said."""
    for place, path in ((config, ()), (config, ("llm",)), (engine, ())):
        with suppress(Exception):
            length = reduce(field_of, (*path, "context_length"), place)
            if isinstance(length, int) and not isinstance(length, bool) and length > 0:
                return length
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

"""What goes to a worker and comes back: JSON as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import forwardcache.errors
from forwardcache.errors import ForwardCacheError, WorkerError
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.views import View

SEPARATOR = b"\0"
"""What stands between a method's name and what it is given, on the way to a process."""


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Part:
    """Prompts that are scored together; the fields as of a ``Job``."""

    prompts: tuple[Prompt, ...]
    lengths: tuple[int, ...]
    op: str
    views: tuple[View, ...]
    top_k: int
    asked_k: int

    def packed(self) -> bytes:
        """The part as bytes."""
        return packed(asdict(self))

    @classmethod
    def of(cls, data: bytes) -> Part:
        """The part that ``packed`` was called on."""
        fields = json.loads(data)
        prompts = tuple(Prompt(**prompt) for prompt in fields.pop("prompts"))
        views = tuple(View(**view) for view in fields.pop("views"))
        return cls(prompts, tuple(fields.pop("lengths")), views=views, **fields)


def packed(value: Any) -> bytes:
    """Plain data as bytes."""
    return json.dumps(value).encode("ascii")


def packed_value(value: Any) -> bytes:
    """Plain data as what ``answer`` reads."""
    return packed({"value": value})


def packed_options(options: ModelOptions) -> bytes:
    """Options of loading as bytes."""
    return json.dumps(asdict(options), default=str).encode("ascii")


def options_of(data: bytes) -> ModelOptions:
    """The options that ``packed_options`` was called on."""
    fields = json.loads(data)
    trace = fields.pop("trace")
    adapters = tuple(NamedAdapter(**each) for each in fields.pop("adapters"))
    return ModelOptions(**fields, adapters=adapters, trace=None if trace is None else Path(trace))


def reply(work: Callable[[], Value], pack: Callable[[Value], bytes] = packed_value) -> bytes:
    """What ``work`` returns, or the error it raises, as bytes.

    An error is told in words: as an object it would be unpickled where it arrives.

    Args:
        work: What is to be done.
        pack: Makes bytes of what it returns; ``answer`` reads those of ``packed_value``.
    """
    try:
        return pack(work())
    except Exception as error:
        return packed({"error": {"kind": type(error).__name__, "message": str(error)}})


def is_error(data: bytes) -> bool:
    """Whether a reply is an error, whatever else ``pack`` makes."""
    return data.startswith(b'{"error"')


def answer(data: bytes) -> Any:
    """What the worker's work returned.

    Raises:
        ForwardCacheError: it raised one of these.
        WorkerError: it raised something else.
    """
    told = json.loads(data)
    if "error" not in told:
        return told["value"]
    kind, message = told["error"]["kind"], told["error"]["message"]
    known = getattr(forwardcache.errors, kind, None)
    if isinstance(known, type) and issubclass(known, ForwardCacheError):
        raise known(message)
    raise WorkerError(f"a worker failed: {kind}: {message}")

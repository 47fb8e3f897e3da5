"""What an engine sends, read once: a copy that the engine can't change any more.

Engines send dicts or objects, and some send one and the same object again and again with other
contents. ``read_chunk`` copies the five fields that are judged at the moment of receipt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Chunk", "Usage", "field_of", "read_chunk"]

_CANCELLED = frozenset({"cancelled", "abort"})


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as an engine reported them, whatever their type; None where it gave none.

    Attributes:
        prompt_tokens: Tokens of the request.
        completion_tokens: Tokens of the answer.
        total_tokens: Both together.
    """

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One item of a stream.

    Attributes:
        at: Seconds from the moment ``generate`` returned to the receipt.
        token_ids: The ids as they came, whatever their type.
        index: The choice's index as it came.
        finish_reason: Lower case; ``"error"`` for ``{"error": …}``; None if not terminal.
        usage: The token counts, or None if the chunk has none.
        error: What the stream raised instead of a chunk, or why this can't be read as one.
        encoder_result: What an encoder hands over; None for all other chunks.
    """

    at: float
    token_ids: tuple[Any, ...] = ()
    index: Any = None
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None
    encoder_result: Any = None

    @property
    def terminal(self) -> bool:
        """Whether a finish reason is given, whatever it is."""
        return self.finish_reason is not None

    @property
    def cancelled(self) -> bool:
        """Whether the finish reason says that the stream was cancelled."""
        return self.finish_reason in _CANCELLED


def field_of(item: Any, name: str, default: Any = None) -> Any:
    """The key or the attribute ``name`` of ``item``."""
    if isinstance(item, Mapping):
        return item.get(name, default)
    return getattr(item, name, default)


def read_chunk(item: Any, at: float) -> Chunk:
    """A copy of what is judged in ``item``.

    Raises:
        TypeError: ``item`` is no chunk, or a field of it can't be read.
    """
    if not _is_chunk(item):
        raise TypeError(f"the stream yielded {item!r:.80}, which is no chunk")
    token_ids = field_of(item, "token_ids")
    return Chunk(
        at=at,
        token_ids=() if token_ids is None else tuple(token_ids),
        index=field_of(item, "index"),
        finish_reason=_reason(field_of(item, "finish_reason")),
        usage=_usage(field_of(item, "completion_usage")),
        encoder_result=field_of(item, "encoder_result"),
    )


def _is_chunk(item: Any) -> bool:
    known = ("token_ids", "finish_reason")
    return isinstance(item, Mapping) or any(hasattr(item, name) for name in known)


def _reason(reason: Any) -> str | None:
    if reason is None:
        return None
    if isinstance(reason, Enum):
        reason = reason.value if isinstance(reason.value, str) else reason.name
    if isinstance(reason, Mapping) and "error" in reason:
        return "error"
    return str(reason).lower()


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None
    fields = ("prompt_tokens", "completion_tokens", "total_tokens")
    return Usage(*(field_of(usage, name) for name in fields))

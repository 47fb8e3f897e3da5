"""The event that a trace's ``write`` is given, and the one that a reader gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TraceEvent:
    """One prompt of one scoring call.

    Attributes:
        ts: Seconds since the epoch.
        probe: Who asked; None if nobody said so.
        view_id: The view of the model.
        prompt_hash: First 12 hex digits of the prompt's SHA-1: a hash prefix, never a key.
        top_k: The number of tokens asked for; None where it was not an integer.
        op: The scoring operation.
        wall_ms: Milliseconds that the lookup, or this prompt's share of the computation, took.
        hit: Whether the value was there.
    """

    ts: float
    probe: str | None
    view_id: str
    prompt_hash: str
    top_k: int | None
    op: str
    wall_ms: float
    hit: bool


@dataclass(frozen=True, kw_only=True)
class TraceLine(TraceEvent):
    """One line of a trace file: an event and the further fields of its line.

    Attributes:
        run: Hex digits that name the session: new at each opening; None in a line of another
            writer.
        thread: Number of the thread within its process, from 0.
        seq: Number of the event within the session, from 0; it rises within a thread.
        key: Hex digits of a digest of the full key; comparable within one process only.
        batch: Number of the ``cached_batch`` call within the session; None for a single call.
        batch_size: Prompts that shared ``batch_wall_ms``: looked up, or computed, together.
        batch_wall_ms: Milliseconds that they took; ``wall_ms`` is this prompt's share.
        bytes: Bytes that the value was counted with when it was stored.
        error: Type of the exception that the computation raised.
        waited: Whether another thread computed the value while this one waited.
    """

    run: str | None = None
    thread: int | None = None
    seq: int | None = None
    key: str | None = None
    batch: int | None = None
    batch_size: int | None = None
    batch_wall_ms: float | None = None
    bytes: int | None = None
    error: str | None = None
    waited: bool = False

"""The event that a trace's ``write`` is given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TraceEvent:
    """One prompt of one scoring call.

    Attributes:
        ts: Seconds since the epoch.
        probe: Who asked; None if nobody said so.
        view_id: The view of the model.
        prompt_hash: First 12 hex digits of the prompt's SHA-1: a label, never a key.
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

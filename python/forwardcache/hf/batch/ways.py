"""In which ways a model may run its rows, as ``probe`` has measured it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from forwardcache.hf.batch.row import Row

Batches = Literal["packed", "padded", "equal_lengths", "single"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a probe; see there.

    Attributes:
        own: The row whose logits are known from the plainest way.
        altered: The same with another token at ``at``.
        crowd: A longer one of one token over and over.
        short: The beginning of the own row, within whatever is limited; None without limits.
        at: Where the two differ.
        positions: Where logits are compared, ascending: all of a short row.
    """

    own: Row
    altered: Row
    crowd: Row
    short: Row | None
    at: int
    positions: tuple[int, ...]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Ways:
    """What one kind of view of a model is let do. It only ever becomes plainer.

    Attributes:
        causal: Whether a position's logits are free of what follows it.
        batches: How rows of several lengths share a forward: end to end (``packed``), padded on the
            right (``padded``), with rows of their own length only, or not at all.
        is_masked: Whether padded rows need an attention mask.
        prefixes: Whether rows may share the computation of a prefix; None as long as nobody knows.
        runs_head_alone: Whether the head on hidden states gives the model's own logits.
        takes_positions: Whether ``logits_to_keep`` gives the logits that it names.
        rows: The rows that it was measured with; None before.
        notes: Why it is not more, in words for users.
        is_of_structure: Whether another model of the same structure may do the same. Weights that
            show nothing (not finite, or hardly any attention) speak for themselves alone.
    """

    causal: bool = True
    batches: Batches = "single"
    is_masked: bool = False
    prefixes: bool | None = False
    runs_head_alone: bool = False
    takes_positions: bool = True
    rows: Rows | None = None
    notes: list[str] = field(default_factory=list)
    is_of_structure: bool = True

"""What computed a value: dtype, device, batches; asked for with ``HFBackend.provenance``.

A value from a half-precision model depends a little on its batch. Whoever wants to know writes down
which batches there were; nobody else pays for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class RanBatch:
    """One forward of several rows.

    Attributes:
        items: Which of the call's distinct items, by position, longest row first.
        positions: Positions that were computed: rows x longest, or the tokens of packed rows.
        tokens: Tokens of the rows, without padding.
        prefix: Tokens of a prefix that the rows share and that ran before, once for all batches
            that name it.
    """

    items: tuple[int, ...]
    positions: int
    tokens: int
    prefix: int = 0


@dataclass(frozen=True)
class Provenance:
    """One computation of the model for one scoring call; hits have none.

    Attributes:
        op: The scoring operation.
        view_id: The view, as it is called in the trace.
        dtype: Of the model's parameters, such as "bfloat16".
        device: Where they are, such as "cpu" or "cuda:0".
        token_budget: Most positions that a batch was allowed to have.
        batches: The forwards, in order.
        out_of_memory: Batches that did not fit into memory and were split.
    """

    op: str
    view_id: str
    dtype: str
    device: str
    token_budget: int
    batches: tuple[RanBatch, ...]
    out_of_memory: int

    @property
    def plan_digest(self) -> str:
        """16 hex digits over the batches: equal digits, equal rows in equal batches."""
        text = repr([(each.items, each.positions, each.prefix) for each in self.batches])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def padding(self) -> float:
        """Share of the computed positions that was padding, 0 to 1."""
        positions = sum(each.positions for each in self.batches)
        return 1.0 - sum(each.tokens for each in self.batches) / positions if positions else 0.0


_collected: ContextVar[tuple[list[Provenance], ...]] = ContextVar("provenance", default=())


@contextmanager
def collecting() -> Iterator[list[Provenance]]:
    """Collects what is computed by the calls of this thread or context while the ``with`` lasts."""
    mine: list[Provenance] = []
    token = _collected.set((*_collected.get(), mine))
    try:
        yield mine
    finally:
        _collected.reset(token)


def note(lists: Sequence[list[Provenance]], computation: Provenance) -> None:
    """Adds a computation to the lists that are asked for."""
    for each in lists:
        each.append(computation)


def wanted() -> tuple[list[Provenance], ...]:
    """The lists that this context's computations go into."""
    return _collected.get()

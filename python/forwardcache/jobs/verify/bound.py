"""How far a value may be from the one that is computed again, in nats a token.

The same model and prompts give other last digits in other batches: less than 1e-4 nats a token in
float32. In half precision rounding decides, so what it moves is measured here, as the floor of
abs(difference in log-probability), and the bound is a multiple of that mean. Where the arithmetic
is another one than recorded, a value beyond the bound is told and fails nothing, up to a wide one.

Where the floor can't be measured in a dtype, because the rows were made in another one than is
loaded, the recorded floor counts as far as it makes the bound smaller: a table that says how far
its own values may be off could say anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OF_BATCHES = 1e-4
"""What other batches move at most in float32, nats a token."""

TIMES_FLOOR = 10.0
"""How many times the floor's mean the furthest of many values may be.

Measured on the demo's model, other kernels on the same machine: 50,000 log-probabilities are 6.7
(bfloat16) and 9.4 times (float16) the mean apart at most.
"""

ELSEWHERE = 1e-3
"""What other arithmetic may move in float32, nats a token: a GPU in the place of a CPU."""

TIMES_FLOOR_ELSEWHERE = 20.0
"""The same in half precision, times the floor's mean."""

HALF = {"bfloat16": 0.03, "float16": 0.004}
"""Dtypes of half precision, with a floor that is assumed where none can be measured, nats."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a value may be off.

    Attributes:
        nats: Nats a token, with the recorded arithmetic.
        wide: With another one; as ``nats`` where it is the recorded one.
        floor: Mean of abs(difference in log-probability) that rounding makes, nats; None where no
            half precision is involved.
        dtype: The one of half precision that has this floor; None likewise.
    """

    nats: float
    wide: float
    floor: float | None
    dtype: str | None = None


def bound_of(
    here: str,
    recorded: str,
    *,
    measured: float | None,
    told: float | None,
    is_elsewhere: bool,
    others: Sequence[str] = (),
) -> Bound:
    """The bound for what is computed here.

    Args:
        here: Dtype that is loaded.
        recorded: Dtype that the rows were made in.
        measured: The floor here, nats; None where it wasn't or couldn't be.
        told: The floor that the rows' facts tell, nats; None without one.
        is_elsewhere: Whether the arithmetic is another one than recorded.
        others: Dtypes of other models that there are rows of.
    """
    floors = {
        dtype: measured
        if dtype == here and measured is not None
        else min(HALF[dtype], told if dtype == recorded and told is not None else HALF[dtype])
        for dtype in (here, recorded, *others)
        if dtype in HALF
    }
    widest = max(floors, key=floors.__getitem__, default=None)
    floor = None if widest is None else floors[widest]
    nats = OF_BATCHES + TIMES_FLOOR * (floor or 0.0)
    wide = ELSEWHERE + TIMES_FLOOR_ELSEWHERE * (floor or 0.0)
    return Bound(nats, wide if is_elsewhere else nats, floor, widest)

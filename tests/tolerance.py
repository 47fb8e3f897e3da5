"""How far apart values of one item may be that were computed in different batches.

A row's last bits depend on its batch, and how much on the processor. README promises float32 within
``TOLERANCE``; whatever compares values of different batches compares within it, and ``pytest
--other-bits`` shows what doesn't. Values of the same batch, and those read from a cache or a store,
are equal bit for bit.
"""

from collections.abc import Sequence
from typing import Any

from forwardcache.operations import of_value

TOLERANCE = 1e-4
"""Nats a token, in float32."""


def hold_to_tolerance(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Asserts that values of some batches are those of others: distributions, scores or sums."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other), (one, other)
        assert of_value(one).is_same(one, other, TOLERANCE), (one, other)

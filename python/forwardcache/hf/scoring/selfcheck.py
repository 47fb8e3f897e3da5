"""Whether a value that was kept is still what the model gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from forwardcache.errors import InvalidInputError
from forwardcache.operation import Operation

# Nats a token. Another batch moves half precision by up to 1e-2, float32 on a GPU by 1e-5.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_TOLERANCE_OF_HALF = 5e-2

T = TypeVar("T")


class SelfCheck:
    """Chooses the hits that are computed again, and judges them.

    Args:
        share: Of the hits, 0 to 1.

    Raises:
        InvalidInputError: the share is outside 0 to 1.
    """

    def __init__(self, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise InvalidInputError(f"verify is a share of the hits, 0 to 1, got {share}")
        self.share = share
        self.verified = self.mismatches = 0
        # Not the process's own: whoever set a seed there keeps its numbers.
        self._chance = random.Random()

    def chosen(self, hits: Sequence[T]) -> list[T]:
        """A random share of ``hits``."""
        return [hit for hit in hits if self._chance.random() < self.share]

    def differs(self, op: Operation, kept: Any, fresh: Any, dtype: torch.dtype) -> bool:
        """Counts one that was computed again, and says whether it is another value."""
        tolerance = _TOLERANCE.get(dtype, _TOLERANCE_OF_HALF)
        is_same = type(kept) is type(fresh) and op.is_same(kept, fresh, tolerance)
        self.verified += 1
        self.mismatches += not is_same
        return not is_same

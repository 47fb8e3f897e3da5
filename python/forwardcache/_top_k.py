"""The most likely tokens at every position of a text, as a value of the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache._arrays import same, set_array, weighs_nbytes
from forwardcache.errors import InvalidInputError

# Of a value's objects around the arrays' memory. Measured: tests/hf/test_capacity.py.
_OBJECT_BYTES = 608


@weighs_nbytes
@dataclass(frozen=True, eq=False)
class TopKByPosition:
    """The ``k`` most likely tokens at each of m positions, and the mass of all others there.

    The arrays of all positions stand one after the other: position i has the entries from ``i * k``
    to ``(i + 1) * k``.

    Attributes:
        token_ids: int64[m * k], at each position by falling log-probability, ties by rising id.
        logprobs: float32[m * k], nats, of those ids.
        tail_logprobs: float32[m], nats, log of the mass outside the k ids of each position; -inf
            where they are the whole vocabulary.
        k: Tokens a position.

    Raises:
        InvalidInputError: an array hasn't one dimension, or not the length that m and k ask for.
    """

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    tail_logprobs: NDArray[np.float32]
    k: int

    def __post_init__(self) -> None:
        set_array(self, "token_ids", np.int64)
        set_array(self, "logprobs", np.float32)
        set_array(self, "tail_logprobs", np.float32)
        expected = len(self.tail_logprobs) * self.k
        for field in ("token_ids", "logprobs"):
            if len(getattr(self, field)) != expected:
                raise InvalidInputError(
                    f"{len(self.tail_logprobs)} positions of {self.k} tokens need {expected} "
                    f"entries of {field}, got {len(getattr(self, field))}"
                )

    def __len__(self) -> int:
        return len(self.tail_logprobs)

    def positions(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids int64[k] and log-probabilities float32[k] of each position, in order."""
        ids, logprobs = self.token_ids.reshape(-1, self.k), self.logprobs.reshape(-1, self.k)
        yield from zip(ids, logprobs, strict=True)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, for a cache that is bounded in bytes."""
        return _OBJECT_BYTES + sum(array.nbytes for array in self._arrays())

    @property
    def is_finite(self) -> bool:
        """Whether every log-probability is a number below +inf; a tail of no mass is -inf."""
        tails = self.tail_logprobs
        return bool(np.isfinite(self.logprobs).all()) and bool((tails < math.inf).all())

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.token_ids, self.logprobs, self.tail_logprobs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopKByPosition):
            return NotImplemented
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return self.k == other.k and all(same(ours, theirs, ours.dtype) for ours, theirs in pairs)

    def __hash__(self) -> int:
        return hash((*(array.tobytes() for array in self._arrays()), self.k))

"""Whether a value that was kept is still what the model gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import ContinuationLogprob, RollingLogprob, TokenDist

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
        if not self.share:
            return []
        return [hit for hit in hits if self._chance.random() < self.share]

    def differs(self, kept: Any, fresh: Any, dtype: torch.dtype) -> bool:
        """Counts one that was computed again, and says whether it is another value."""
        is_same = same_within(kept, fresh, _TOLERANCE.get(dtype, _TOLERANCE_OF_HALF))
        self.verified += 1
        self.mismatches += not is_same
        return not is_same


def same_within(kept: Any, fresh: Any, tolerance: float) -> bool:
    """Whether two values of one item are the same but for the arithmetic's noise.

    Args:
        kept: The value that was there.
        fresh: The value of a new forward.
        tolerance: Nats a token.
    """
    if type(kept) is not type(fresh):
        return False
    if isinstance(kept, TokenDist):
        return _same_dist(kept, fresh, tolerance)
    if isinstance(kept, RollingLogprob):
        ids_are_same = np.array_equal(kept.token_ids, fresh.token_ids)
        return ids_are_same and _close(kept.logprobs, fresh.logprobs, tolerance)
    if isinstance(kept, ContinuationLogprob):
        tokens = fresh.num_tokens
        # Greedy or not may turn over between two tokens that are nearly equal.
        return kept.num_tokens == tokens and _close(
            kept.logprob, fresh.logprob, tolerance * max(tokens, 1)
        )
    # The sum of an unknown number of tokens, each of which has some nats.
    return _close(kept, fresh, tolerance * max(1.0, abs(fresh)))


def _same_dist(kept: TokenDist, fresh: TokenDist, tolerance: float) -> bool:
    if kept.vocab_size != fresh.vocab_size or len(kept.token_ids) != len(fresh.token_ids):
        return False
    # Tokens that are nearly equal may change places, also with one outside the k; those clear of
    # the last can't.
    ours, theirs = (dict(zip(d.token_ids.tolist(), d.logprobs.tolist(), strict=True))
                    for d in (kept, fresh))  # fmt: skip
    last = min(theirs.values(), default=0.0)
    return all(
        _close(ours.get(token, last), theirs.get(token, last), tolerance)
        for token in ours.keys() | theirs.keys()
    )


def _close(one: Any, other: Any, tolerance: float) -> bool:
    return bool(np.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True))

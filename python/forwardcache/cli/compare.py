"""KL(base ‖ view) from as few passes as can be.

The row of a view holds its own k most likely tokens, the divergence needs its log-probabilities at
base's k. Both come from one pass if the distribution asked for is wide enough to hold base's tokens
too, so a wider one is asked for and cut down; a prompt where it still lacks one of them costs a
second pass (``token_dist_at``).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from forwardcache.scoring import TokenDist, kl_divergence

WIDE = 4096
"""Tokens asked for where views are compared; 49 KB a value, the whole of a small vocabulary."""


def kl_nats(base: TokenDist, view: TokenDist) -> float | None:
    """KL(base ‖ view) over base's tokens and one bucket for the rest.

    Args:
        base: The k most likely tokens of base.
        view: A distribution of the view over any tokens.

    Returns:
        Nats; None if ``view`` lacks one of base's tokens.
    """
    order = np.argsort(view.token_ids, kind="stable")
    places = np.searchsorted(view.token_ids, base.token_ids, sorter=order)
    places = order[np.minimum(places, len(order) - 1)]
    if not np.array_equal(view.token_ids[places], base.token_ids):
        return None
    others = np.ones(len(view.token_ids), dtype=bool)
    others[places] = False
    tail = with_tail(view.logprobs[others], view.tail_logprob)
    return kl_divergence(base, view.logprobs[places], other_tail_logprob=tail)


def kl_at_base_tokens(base: TokenDist, view: TokenDist) -> float:
    """KL(base ‖ view), nats, where ``view`` is over exactly base's tokens, in their order."""
    return kl_divergence(base, view.logprobs, other_tail_logprob=view.tail_logprob)


def narrowed(dist: TokenDist, top_k: int) -> TokenDist:
    """The ``top_k`` most likely tokens of ``dist``, the dropped ones joined to its tail."""
    if top_k >= len(dist.token_ids):
        return dist
    tail = with_tail(dist.logprobs[top_k:], dist.tail_logprob)
    return TokenDist(dist.token_ids[:top_k], dist.logprobs[:top_k], dist.vocab_size, tail)


def with_tail(logprobs: NDArray[np.float32], tail_logprob: float | None) -> float:
    """Log of the mass of ``logprobs`` and a tail together, nats, summed in float64."""
    parts = logprobs.astype(np.float64)
    if tail_logprob is not None:
        parts = np.append(parts, tail_logprob)
    with np.errstate(invalid="ignore"):  # of a broken model: NaN in, NaN out
        return float(np.logaddexp.reduce(parts)) if len(parts) else -math.inf

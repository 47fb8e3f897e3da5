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
    by_id, is_there = _by_id(view, at_least=int(base.token_ids.max()) + 1)
    if not is_there[base.token_ids].all():
        return None
    own = by_id[base.token_ids]
    # Of what is left, the tokens of base have no part in the tail.
    by_id[base.token_ids] = -np.inf
    tail = with_tail(by_id[view.token_ids], view.tail_logprob)
    return kl_divergence(base, own, other_tail_logprob=tail)


def _by_id(dist: TokenDist, *, at_least: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Log-probabilities by token id, and which ids have one."""
    size = max(at_least, int(dist.token_ids.max()) + 1)
    logprobs, is_there = np.empty(size, dtype=np.float32), np.zeros(size, dtype=bool)
    logprobs[dist.token_ids] = dist.logprobs
    is_there[dist.token_ids] = True
    return logprobs, is_there


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
    most = float(parts.max(initial=-math.inf))
    if not math.isfinite(most):
        return most
    return most + math.log(float(np.exp(parts - most).sum()))

"""KL(base ‖ view) from distributions that are there.

Where views of a small vocabulary are compared, all of it is asked for, and the divergence is that
of the values. Of a large one a row's tokens are asked for, and the divergence comes from the logits
of both views (``operations.next_token_kl``); from the values it is a lower bound, over the tokens
that both have and one bucket for all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forwardcache.scoring import TokenDist, kl_divergence

WIDE = 4096
"""A vocabulary of up to so many is asked for whole where views are compared; 49 KB a value."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(base ‖ view) of one prompt.

    Attributes:
        nats: The divergence, of ``tokens`` tokens and one bucket for the rest.
        tokens: Tokens that were compared one by one.
        mass_outside: Base's probability of all others; 0.0 where there is none.
        is_exact: Whether the tokens are the whole vocabulary; else ``nats`` is a lower bound.
    """

    nats: float
    tokens: int
    mass_outside: float
    is_exact: bool


def divergence(base: TokenDist, view: TokenDist, *, needed: int) -> Divergence | None:
    """KL(base ‖ view) over all tokens that both have, and one bucket for the rest.

    Each further token can only raise the bound, so none that is in hand is left out.

    Args:
        base: The most likely tokens of base.
        view: A distribution of the view over any tokens.
        needed: How many of the first tokens of ``base`` the view has to have.

    Returns:
        The divergence; None if ``view`` lacks one of the tokens that are needed.
    """
    by_id, is_there = _by_id(view, at_least=int(base.token_ids.max()) + 1)
    is_shared = is_there[base.token_ids]
    if not is_shared[:needed].all():
        return None
    shared = _of_tokens(base, is_shared)
    own = by_id[shared.token_ids]
    # Of what is left, the tokens that are compared have no part in the tail.
    by_id[shared.token_ids] = -np.inf
    tail = with_tail(by_id[view.token_ids], view.tail_logprob)
    outside = shared.tail_logprob
    return Divergence(
        kl_divergence(shared, own, other_tail_logprob=tail),
        len(shared.token_ids),
        0.0 if outside is None else math.exp(outside),
        is_exact=outside is None,
    )


def _by_id(dist: TokenDist, *, at_least: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Log-probabilities by token id, and which ids have one."""
    size = max(at_least, int(dist.token_ids.max()) + 1)
    logprobs, is_there = np.empty(size, dtype=np.float32), np.zeros(size, dtype=bool)
    logprobs[dist.token_ids] = dist.logprobs
    is_there[dist.token_ids] = True
    return logprobs, is_there


def _of_tokens(dist: TokenDist, kept: NDArray[np.bool_]) -> TokenDist:
    """``dist`` with some of its tokens, the others joined to its tail."""
    if kept.all():
        return dist
    tail = with_tail(dist.logprobs[~kept], dist.tail_logprob)
    return TokenDist(dist.token_ids[kept], dist.logprobs[kept], dist.vocab_size, tail)


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

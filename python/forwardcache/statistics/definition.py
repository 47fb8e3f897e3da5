"""The difference at one position, as it is defined: plainly, in float64, from whole logits.

What a model's positions are computed with is faster and bounded in memory, and is held to this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import PositionDifferences
from forwardcache.statistics.totals import Float64s

TOP_K = 5
"""Most likely tokens of each side that ``top_k_agreement`` compares."""


def differences_by_definition(
    token_ids: ArrayLike,
    logits_reference: ArrayLike,
    logits: ArrayLike,
    *,
    k: int = TOP_K,
    counts: ArrayLike | None = None,
) -> PositionDifferences:
    """The differences of one text from the logits of both models.

    Args:
        token_ids: int64[n].
        logits_reference: [n-1, vocabulary], any constant a row away from log P; -inf for no mass.
        logits: [n-1, vocabulary], of Q.
        k: Most likely tokens to compare, 1 or more; ties go to the lower id.
        counts: bool[n-1], positions that are in the figures. None: all.

    Raises:
        InvalidInputError: ``k`` is below 1, or the shapes don't fit each other.

    Source:
        Kullback and Leibler, On Information and Sufficiency (1951); Lin, Divergence Measures Based
        on the Shannon Entropy (1991); Shannon, A Mathematical Theory of Communication (1948).
    """
    ids = np.asarray(token_ids, dtype=np.int64)
    ours, theirs = (np.asarray(each, dtype=np.float64) for each in (logits_reference, logits))
    rows = max(len(ids) - 1, 0)
    if k < 1 or ours.ndim != 2 or ours.shape != theirs.shape or len(ours) != rows:
        raise InvalidInputError(
            f"{len(ids)} tokens need two arrays of {rows} rows and one vocabulary, and k of 1 or "
            f"more: got shapes {ours.shape} and {theirs.shape}, k = {k}"
        )
    p, q = _normalised(ours), _normalised(theirs)
    middle = np.logaddexp(p, q) - np.log(2.0)
    best_p, best_q = (np.argsort(-each, axis=1, kind="stable")[:, :k] for each in (p, q))
    shared = (best_p[:, :, None] == best_q[:, None, :]).any(axis=2)
    at = np.arange(rows), ids[1:]
    return PositionDifferences(
        token_ids=ids,
        kl=_kl(p, q),
        kl_reverse=_kl(q, p),
        js=0.5 * _kl(p, middle) + 0.5 * _kl(q, middle),
        logprob_reference=p[at].astype(np.float32),
        logprob=q[at].astype(np.float32),
        entropy_reference=-_sum_over(p, p).astype(np.float32),
        same_top=best_p[:, 0] == best_q[:, 0],
        top_k_agreement=shared.mean(axis=1, dtype=np.float32),
        counts=np.ones(rows, dtype=np.bool_) if counts is None else np.asarray(counts, np.bool_),
    )


def _normalised(logits: Float64s) -> Float64s:
    if not logits.size:
        return logits
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def _kl(p: Float64s, q: Float64s) -> Float64s:
    """Σ P·(log P - log Q) of each row; not cut off at 0."""
    with np.errstate(invalid="ignore"):
        return _sum_over(p, p - q)


def _sum_over(p: Float64s, values: NDArray[np.float64]) -> Float64s:
    """Σ P·values of each row; a token without mass adds nothing, by continuity."""
    mass = np.exp(p)
    with np.errstate(invalid="ignore"):
        terms: Float64s = np.where(mass == 0.0, 0.0, mass * values).sum(axis=1)
    return terms

"""The noise floor: how far one view is from itself in another batch.

In half precision the same row gives slightly different log-probabilities alone and in company. A
divergence between two views that is no larger than that says nothing about the views. One that is
larger may still be rounding: what every batch rounds alike isn't seen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.hf.scoring.ops import (
    LOGPROB_OF,
    TOKEN_DIST_AT,
    form_of,
    items_with_ids,
    next_token_dist,
    rolling_logprob,
)
from forwardcache.hf.spec import ViewSpec
from forwardcache.scoring import kl_divergence

if TYPE_CHECKING:
    from forwardcache.hf.scoring.scorer import Scorer

SAMPLE = 32


@dataclass(frozen=True)
class NoiseFloor:
    """Differences between one view and the same view in other batches.

    Attributes:
        op: The scoring operation.
        dtype: Of the model's parameters.
        prompts: Items that were run twice.
        mean_nats: Mean difference: KL(together ‖ alone) over the k ids and one bucket for all
            other tokens, or for the other operations the absolute difference in log-probability.
        max_nats: The largest of them.
    """

    op: str
    dtype: str
    prompts: int
    mean_nats: float
    max_nats: float


def sample_of(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` items, evenly spaced: the same ones every time.

    Raises:
        InvalidInputError: ``most`` is below 1, or there are no items.
    """
    if most < 1 or not items:
        raise InvalidInputError(
            f"a noise floor needs at least one item, got {len(items)} and a sample of {most}"
        )
    if len(items) <= most:
        return list(items)
    places = np.linspace(0, len(items) - 1, most).round().astype(int)
    return [items[place] for place in dict.fromkeys(places.tolist())]


def floor_of(op: str, dtype: str, differences: Sequence[float]) -> NoiseFloor:
    """The floor from the differences that were found."""
    found = np.array(differences, dtype=np.float64)
    mean, most = (float(found.mean()), float(found.max())) if len(found) else (np.nan, np.nan)
    return NoiseFloor(op, dtype, len(found), mean, most)


def measured_floor(
    scorer: Scorer,
    spec: ViewSpec | None,
    op: str,
    items: Sequence[Any],
    *,
    top_k: int,
    sample: int,
) -> NoiseFloor:
    """The floor of a view over a sample of ``items``; those that can't be scored are left out.

    Raises:
        InvalidInputError: there are no items, or no such operation.
    """
    chosen = sample_of(items, sample)
    lengths = scorer.token_lengths(form_of(op, windows=scorer.options.windows), chosen)
    fit = [one for one, length in zip(chosen, lengths, strict=True) if isinstance(length, int)]
    dtype = str(scorer.causal_lm.dtype).removeprefix("torch.")
    return floor_of(op, dtype, differences_alone(scorer, spec, op, fit, top_k))


def differences_alone(
    scorer: Scorer, spec: ViewSpec | None, op: str, items: Sequence[Any], top_k: int
) -> list[float]:
    """How far each item's value in company is from the one alone, nats, past the cache."""
    windows = scorer.options.windows
    plain = {"rolling_logprob": rolling_logprob(windows=windows), "logprob_of": LOGPROB_OF}
    if op in plain:
        together = scorer.fresh(spec, plain[op], items, alone=False)
        return log_differences(together, scorer.fresh(spec, plain[op], items, alone=True))
    if op != "next_token_dist":
        raise InvalidInputError(f"there is no noise floor of {op!r}")
    together = scorer.fresh(spec, next_token_dist(top_k), items, alone=False)
    ids = [() if isinstance(one, ForwardCacheError) else one.token_ids for one in together]
    same_ids = items_with_ids(items, ids, scorer.runner.vocab_size)
    return kl_between(together, scorer.fresh(spec, TOKEN_DIST_AT, same_ids, alone=True))


def kl_between(together: Sequence[Any], alone: Sequence[Any]) -> list[float]:
    """KL(together ‖ alone) of each prompt, nats; ``alone`` is over the ids of ``together``."""
    return [
        kl_divergence(one, other.logprobs, other_tail_logprob=other.tail_logprob)
        for one, other in _without_errors(together, alone)
    ]


def log_differences(together: Sequence[Any], alone: Sequence[Any]) -> list[float]:
    """Absolute differences of log-probabilities, or of their sums, nats."""
    pairs = _without_errors(together, alone)
    return [abs(_logprob(one) - _logprob(other)) for one, other in pairs]


def _without_errors(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
    pairs = zip(one, other, strict=True)
    return [pair for pair in pairs if not any(isinstance(each, ForwardCacheError) for each in pair)]


def _logprob(value: Any) -> float:
    return value if isinstance(value, float) else float(value.total_logprob)

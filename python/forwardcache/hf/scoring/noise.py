"""The noise floor: how far one view is from itself in another batch.

In half precision the same row gives slightly different log-probabilities alone and in a batch with
others. A divergence between two views that is no larger than that says nothing about the views. One
that is larger may still be rounding: what every batch rounds alike isn't seen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from forwardcache.errors import InvalidInputError
from forwardcache.hf.spec import ViewSpec

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
    positions = np.linspace(0, len(items) - 1, most).round().astype(int)
    return [items[position] for position in dict.fromkeys(positions.tolist())]


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
    asked = scorer.operation(op, top_k=top_k)
    if not asked.needs_only_prompts:
        raise InvalidInputError(f"there is no noise floor of {op!r}")
    chosen = sample_of(items, sample)
    lengths = scorer.token_lengths(asked.form, chosen)
    fit = [one for one, length in zip(chosen, lengths, strict=True) if isinstance(length, int)]
    dtype = str(scorer.causal_lm.dtype).removeprefix("torch.")
    return floor_of(op, dtype, asked.noise(partial(scorer.fresh, spec), fit))

"""Positions whose figures are known, made by hand or drawn with a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forwardcache.scoring import PositionDifferences
from forwardcache.statistics import Positions


def item(token_ids: Sequence[int], **changes: Any) -> PositionDifferences:
    """One text in which nothing differs, but for what is given."""
    size = max(len(token_ids) - 1, 0)
    fields: dict[str, Any] = {
        **dict.fromkeys(("kl", "kl_reverse", "js", "entropy_reference"), np.zeros(size)),
        **dict.fromkeys(("logprob_reference", "logprob"), np.full(size, -1.0)),
        **dict.fromkeys(("same_top", "counts"), np.ones(size, dtype=np.bool_)),
        "top_k_agreement": np.ones(size),
    }
    return PositionDifferences(token_ids=np.array(token_ids, np.int64), **(fields | changes))


def with_kl(values: Sequence[Sequence[float]], **changes: Any) -> Positions:
    """One text for each list, with these divergences."""
    items = [
        item([number, *range(len(each))], kl=each, **changes) for number, each in enumerate(values)
    ]
    return Positions.of(items)


def drawn(
    chance: np.random.Generator, *, texts: int, length: int = 20, scale: float = 1e-3
) -> Positions:
    """Texts of one length with lognormal divergences; texts differ in their level too."""
    level = scale * chance.lognormal(0.0, 0.5, (texts, 1))
    kl = level * chance.lognormal(0.0, 0.5, (texts, length))
    return with_kl(kl.tolist())


def same_texts(positions: Positions, kl: Any) -> Positions:
    """The same positions with other divergences."""
    arrays = {
        name: getattr(positions, name)
        for name in ("names", "text", "item", "place", "kl_reverse", "js", "logprob_reference",
                     "logprob", "entropy_reference", "same_top", "top_k_agreement")
    }  # fmt: skip
    return Positions(**arrays, kl=np.asarray(kl))

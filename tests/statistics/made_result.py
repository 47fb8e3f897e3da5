"""Results of a comparison as a run would have them, from drawn positions."""

from __future__ import annotations

import numpy as np

from forwardcache.statistics import (
    DiffResult,
    Floor,
    Positions,
    ViewDifference,
    adjusted,
    against_floor,
    against_nulls,
    summaries,
)
from tests.statistics.made import item


def texts_of(chance: np.random.Generator, kl: float, *, texts: int, length: int = 8) -> Positions:
    """Texts whose divergences are around ``kl``, with all other figures moved to fit."""
    size = length - 1
    return Positions.of(
        [
            item(
                [number, *range(size)],
                kl=kl * chance.lognormal(0.0, 0.5, size),
                logprob=-1.0 + np.sqrt(kl) * chance.normal(0.0, 0.3, size),
                entropy_reference=chance.uniform(0.0, 3.0, size),
                same_top=chance.random(size) > kl,
            )
            for number in range(texts)
        ]
    )


def result_of(
    kl: dict[str, float],
    *,
    texts: int = 30,
    floor: float | None = None,
    nulls: int = 0,
    null_kl: float = 1e-3,
    groups: int = 0,
) -> DiffResult:
    """A run over ``texts`` texts with these mean divergences.

    Args:
        kl: By view id: about its mean KL, nats.
        texts: Distinct texts.
        floor: About the mean KL of rounding alone; None: not measured.
        nulls: Matched nulls of each view.
        null_kl: About their mean KL.
        groups: Groups, which texts belong to by turns.
    """
    chance = np.random.default_rng(0)
    views = {view: texts_of(chance, mean, texts=texts) for view, mean in kl.items()}
    measured = None if floor is None else Floor.of([texts_of(chance, floor, texts=texts)])
    of_groups = [f"style {number % groups}" for number in range(texts)] if groups else None
    found = summaries(views, groups=of_groups)
    random = [texts_of(chance, null_kl, texts=texts) for _ in range(nulls)]
    held = views if random else {}
    placed = adjusted(
        {view: against_nulls(one, random, floor=measured) for view, one in held.items()}
    )
    return DiffResult(
        reference="base",
        texts=texts,
        positions=len(next(iter(views.values()))),
        views=tuple(
            ViewDifference(
                view=view,
                positions=one,
                summary=found[view],
                floor=None if measured is None else against_floor(one, measured),
                nulls=placed.get(view),
            )
            for view, one in views.items()
        ),
        floor=measured,
        floor_texts=0 if measured is None else texts,
        group_by="style" if groups else None,
    )

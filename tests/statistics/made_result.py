"""Results of a comparison as a run would have them, from drawn positions."""

from __future__ import annotations

from dataclasses import replace

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


def sweep_of(
    adapters: list[str], lambdas: list[float], *, floor: float | None = 1e-8, nulls: int = 0
) -> DiffResult:
    """A run over adapters at strengths: each moves as much as its place, times λ squared.

    Args:
        adapters: Their names; a number at the end is the step.
        lambdas: The strengths.
        floor: As in ``result_of``.
        nulls: As in ``result_of``.
    """
    which = {
        f"{'ft' if lam == 1.0 else f'scaled_{lam:.2f}'}:{name}": (at, name, lam)
        for at, name in enumerate(adapters, start=1)
        for lam in lambdas
    }
    kl = {view: 0.01 * at * lam**2 for view, (at, _, lam) in which.items()}
    found = result_of(kl, floor=floor, nulls=nulls)
    views = []
    for one in found.views:
        _, name, lam = which[one.view]
        number = name.rpartition("-")[2]
        step = int(number) if number.isdigit() else None
        drawn = {f"null_{seed}": 1e-4 * (1 + seed) * lam**2 for seed in range(nulls)}
        views.append(replace(one, adapter=name, lam=lam, step=step, null_means=drawn))
    return replace(found, views=tuple(views))


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

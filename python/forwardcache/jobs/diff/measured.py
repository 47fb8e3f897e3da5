"""What rounding alone makes of a difference, on some of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forwardcache.errors import ForwardCacheError, UnsupportedModelError
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.statistics import Floor

RERUNS = 4
SEED = 0
"""Of the reruns."""


@dataclass(frozen=True, slots=True)
class MeasuredFloor:
    """A floor and what it was measured on.

    Attributes:
        floor: What rounding makes; None where the model can't be rerun so.
        positions: The texts, by their position in the plan.
        why_none: Why there is no floor.
    """

    floor: Floor | None
    positions: Sequence[int]
    why_none: str | None = None


def measured_floor(backend: Any, plan: DiffPlan) -> MeasuredFloor:
    """The floor of the plan's reference.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.

    Raises:
        InvalidInputError: a text can't be run and isn't to be skipped; there is no position; or the
            reruns differ and their mean is 0.
        MachineError: memory is too small for a text that isn't to be skipped.
    """
    sample = plan.sample()
    while True:
        try:
            floor = backend.rounding_floor(
                [plan.texts[at] for at in sample],
                reference=plan.reference.of(backend),
                completions=[plan.prompts[at].completion for at in sample],
                reruns=RERUNS,
                seed=SEED,
                skip_first=plan.skip_first,
            )
        except UnsupportedModelError as error:
            return MeasuredFloor(None, sample, str(error))
        except ForwardCacheError as error:
            if (index := getattr(error, "index", None)) is None or len(sample) == 1:
                raise
            # The comparison meets that text too, and tells of it.
            plan.skips(sample[index], error)
            del sample[index]
        else:
            return MeasuredFloor(floor, sample)

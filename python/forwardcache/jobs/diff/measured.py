"""What rounding alone makes of a difference, on some of the texts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forwardcache.errors import ForwardCacheError, UnsupportedModelError
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.statistics import Floor

RERUNS = 4
SEED = 0
"""Of the reruns."""

KEPT = "floor"
"""What a floor is noted as."""

_FIGURES = ("mean", "p99", "same_top", "mean_abs_delta_logprob")


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


def measured_floor(backend: Any, plan: DiffPlan, kept: Kept | None = None) -> MeasuredFloor:
    """The floor of the plan's reference: the one for all adapters.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.
        kept: What is known of it, and where it is noted; None keeps nothing.

    Raises:
        InvalidInputError: a text can't be run and isn't to be skipped; there is no position; or the
            reruns differ and their mean is 0.
        MachineError: memory is too small for a text that isn't to be skipped, or what was found
            can't be noted.
    """
    if kept is not None and (noted := kept.find(KEPT)) is not None:
        return _from_noted(noted)
    found = _measured(backend, plan)
    if kept is not None:
        kept.note(KEPT, "", _as_noted(found))
    return found


def _measured(backend: Any, plan: DiffPlan) -> MeasuredFloor:
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


def _as_noted(found: MeasuredFloor) -> dict[str, Any]:
    """As JSON; the names of texts are their tokens' bytes."""
    floor = found.floor
    return {
        "positions": [int(at) for at in found.positions],
        "why_none": found.why_none,
        "figures": None if floor is None else [getattr(floor, name) for name in _FIGURES],
        "kl_of": []
        if floor is None
        else [[name.hex(), *mean] for name, mean in floor.kl_of.items() if isinstance(name, bytes)],
    }


def _from_noted(noted: Mapping[str, Any]) -> MeasuredFloor:
    figures = noted["figures"]
    kl_of: dict[Hashable, tuple[float, float]] = {
        bytes.fromhex(name): (mean, count) for name, mean, count in noted["kl_of"]
    }
    floor = None if figures is None else Floor(kl_of, *figures)
    return MeasuredFloor(floor, noted["positions"], noted["why_none"])

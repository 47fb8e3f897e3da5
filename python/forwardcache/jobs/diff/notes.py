"""What a reader has to know beside the figures, and the figures alone don't tell."""

from __future__ import annotations

from collections.abc import Mapping

from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.statistics import Positions


def notes_on_texts(plan: DiffPlan, positions: Mapping[str, Positions]) -> list[str]:
    """What the figures are over.

    Args:
        plan: What was compared.
        positions: By name of a view.
    """
    found = []
    first = next(iter(positions.values()))
    items = len(set(first.item.tolist()))
    if items > first.texts:
        found.append(
            f"{items:,} texts of the input are {first.texts:,} different ones: equal texts count "
            "as one in an interval."
        )
    if plan.skip_first:
        found.append(f"The first {plan.skip_first:,} positions of each text are left out.")
    return found


def notes_on_dtype(dtype: str) -> list[str]:
    """What half precision does to the figures.

    Args:
        dtype: Of the model.
    """
    if dtype == "float32":
        return []
    return [
        f"In {dtype} the two most likely tokens are often equally likely, and rounding alone "
        "changes which is the first: hold the share of the same top token against rounding's."
    ]

"""What a comparison has found so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from forwardcache.jobs.skips import Skipped
from forwardcache.scoring import PositionDifferences

NUMBERS = "numbers"
"""The bound of a view that hasn't one number; no option asks for it."""

Compared = dict[str, list[PositionDifferences]]
"""By name of a view: what was found of each text."""


@dataclass(slots=True)
class Found:
    """What a comparison found.

    Attributes:
        items: By name of each view: the differences of each text that was compared.
        positions: The position in the plan of each of these texts.
        skipped: Texts that the model failed on.
        rows: Rows that were written.
    """

    items: Compared
    positions: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    rows: int = 0

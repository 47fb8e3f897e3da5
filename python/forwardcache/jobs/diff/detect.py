"""How little of an adapter can be told from rounding: the smallest λ of the scaled view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from forwardcache.statistics import Floor, FloorVerdict, Positions, against_floor

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend, HFView

KEPT = "visible"
"""What a detection is noted as."""

LEAST = 2.0**-10
"""The smallest λ that is tried."""
RATIO = 1.1
"""How far apart what is seen and what isn't may be in the end."""
MOST_READS = 3 + 2 * math.ceil(math.log2(math.log(1.0 / LEAST) / math.log(RATIO)))
"""How often each text is read at most, the reference's times among them."""


class Detection(NamedTuple):
    """How little of an adapter can be told from rounding, on some texts.

    Attributes:
        visible_from: The smallest λ found from which on it can, to 10 %; ``least`` where it still
            can there; None where it can't even at λ = 1, or the texts are too few for a verdict.
        least: The smallest λ that was tried.
    """

    visible_from: float | None
    least: float


def visible_from(
    backend: HFBackend,
    texts: Sequence[Any],
    floor: Floor,
    *,
    adapter: str | None = None,
    completions: Sequence[str | None] | None = None,
    skip_first: int = 0,
    windows: bool | None = None,
    reference: HFView | str = "base",
) -> Detection:
    """The smallest λ at which λ times the adapter can be told from rounding.

    Bisection of log λ between ``LEAST`` and 1, to ``RATIO``: eight comparisons at most, the first
    of two views. Between two λ it is taken for granted that the larger one is seen if the smaller
    one is.

    Args:
        backend: With an adapter.
        texts: Those of the floor.
        floor: That of the reference, from ``backend.rounding_floor``.
        adapter: Which one; None for the only one.
        completions: As the floor had them; so are those that follow.
        skip_first: Of each text, how many of its first positions are left out.
        windows: Whether texts longer than the context are compared in windows.
        reference: What the adapter is held against.

    Raises:
        ForwardCacheError: as in ``backend.compare``: a scaled view can't be exact, or there is no
            adapter, or a text can't be compared.
    """
    which: Any = {} if adapter is None else {"adapter": adapter}

    def verdicts(*lams: float) -> list[FloorVerdict]:
        found = backend.compare(
            texts,
            [backend.as_scaled_adapter(lam, **which) for lam in lams],
            reference=reference,
            completions=completions,
            windows=windows,
        )
        views = [Positions.of(values, skip_first=skip_first) for values in found.values()]
        return [against_floor(view, floor) for view in views]

    whole, least = verdicts(1.0, LEAST)
    if not whole.distinguishable or least.distinguishable:
        return Detection(LEAST if whole.distinguishable else None, LEAST)
    seen, unseen = 1.0, LEAST
    while seen > RATIO * unseen:
        middle = math.sqrt(seen * unseen)
        [verdict] = verdicts(middle)
        seen, unseen = (middle, unseen) if verdict.distinguishable else (seen, middle)
    return Detection(seen, LEAST)

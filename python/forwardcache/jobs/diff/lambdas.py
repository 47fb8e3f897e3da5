"""``--lambdas 0.25,0.5,1``: at which strengths each adapter is compared."""

from __future__ import annotations

import math

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.reasons import shown


def parse_lambdas(text: str) -> tuple[float, ...]:
    """The factors on an adapter, in the order given; 1 is the adapter itself.

    Args:
        text: Numbers, comma-separated.

    Raises:
        InvalidInputError: one is no finite number, stands twice, or is 0, which is base.
    """
    found: list[float] = []
    for word in text.split(","):
        lam = _finite(word.strip())
        if lam == 0.0:
            raise InvalidInputError(
                f"--lambdas {shown(text)}: 0 times an adapter is base, which the others are held "
                "against; leave it out"
            )
        if lam in found:
            raise InvalidInputError(f"--lambdas {shown(text)}: {lam:g} stands there twice")
        found.append(lam)
    return tuple(found)


def _finite(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(f"--lambdas: {shown(word)} is not a finite number")
    return value

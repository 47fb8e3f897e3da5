"""What every kit's report says of itself: which kit, which version, how many checks have run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from forwardcache import __version__

__all__ = ["KIT_VERSION", "conforms", "counted", "stamp", "stamp_line"]

KIT_VERSION = "2"
"""One number for all kits; it grows when a subject could get another verdict than before."""

_RAN = ("passed", "failed", "expected", "stale")
_WORDS = {
    "passed": "passed",
    "failed": "failed",
    "expected": "failed as expected",
    "stale": "passed, though expected to fail",
    "skipped": "skipped",
    "not_run": "not run",
}


def conforms(outcomes: Iterable[str]) -> bool:
    """Whether no check has failed or is expected to without need, and at least one was judged.

    Args:
        outcomes: ``"passed"``, ``"failed"``, ``"expected"`` (failed, and known to), ``"stale"``
            (passed, and expected to fail), ``"skipped"`` or ``"not_run"``, one a check.
    """
    seen = set(outcomes)
    return not seen & {"failed", "stale"} and bool(seen & {"passed", "expected"})


def stamp(kit: str, outcomes: Sequence[str]) -> dict[str, Any]:
    """The head of a report in JSON.

    Args:
        kit: ``"engine"``, ``"backend"``, ``"adapter"`` or ``"server"``.
        outcomes: One a check, as for ``conforms``.
    """
    return {
        "kit": kit,
        "kit_version": KIT_VERSION,
        "forwardcache": __version__,
        "checks_run": _ran(outcomes),
        "checks_in_all": len(outcomes),
    }


def stamp_line(kit: str, outcomes: Sequence[str]) -> str:
    """The same in one line, for people."""
    ran = f"{_ran(outcomes)} of {len(outcomes)} checks run"
    return f"{kit} kit {KIT_VERSION} (forwardcache {__version__}): {ran}"


def counted(outcomes: Iterable[str]) -> str:
    """How many checks had which outcome: ``17 passed, 2 skipped``."""
    counts = Counter(outcomes)
    return ", ".join(f"{counts[name]} {words}" for name, words in _WORDS.items() if counts[name])


def _ran(outcomes: Iterable[str]) -> int:
    return sum(outcome in _RAN for outcome in outcomes)

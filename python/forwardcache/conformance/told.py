"""What a kit's command tells of a run, for those that write it to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forwardcache.conformance.failure import ConformanceFailure

__all__ = ["Judged", "Told", "Writer", "judged"]


@dataclass(frozen=True)
class Judged:
    """What came of one check, whichever kit has it.

    Attributes:
        check: Its name.
        outcome: As for ``kit.conforms``.
        reason: Why it was skipped, not run or expected to fail; of a backend, why it failed.
        seconds: How long it took; None where that isn't measured.
        failures: What it found.
    """

    check: str
    outcome: str
    reason: str | None = None
    seconds: float | None = None
    failures: Sequence[ConformanceFailure] = ()


class Result(Protocol):
    """What came of one check, in a kit's own report."""

    @property
    def check(self) -> str:
        """Its name."""

    @property
    def reason(self) -> str | None:
        """Why it was skipped, not run or expected to fail."""

    @property
    def seconds(self) -> float:
        """How long it took."""

    @property
    def failures(self) -> Sequence[ConformanceFailure]:
        """What it found."""


def judged(results: Iterable[Result], outcomes: Iterable[str]) -> list[Judged]:
    """A kit's results as all kits have them.

    Args:
        results: One a check.
        outcomes: As for ``kit.conforms``, one a check.
    """
    return [
        Judged(each.check, outcome, each.reason, each.seconds, each.failures)
        for each, outcome in zip(results, outcomes, strict=True)
    ]


@dataclass(frozen=True)
class Told:
    """A run, as its command tells it.

    Attributes:
        kit: ``"engine"``, ``"backend"``, ``"adapter"`` or ``"server"``.
        subject: What was checked: a factory, or an address.
        verdict: What it comes to, in a line.
        report: What ``--format json`` prints.
        checks: One a check, in order.
    """

    kit: str
    subject: str
    verdict: str
    report: Mapping[str, Any]
    checks: Sequence[Judged]


Writer = Callable[[Told], None]
"""Writes a run to a file."""

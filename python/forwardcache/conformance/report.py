"""What a run has found, as data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from forwardcache.conformance import kit
from forwardcache.conformance.failures import ConformanceFailure

__all__ = ["CheckResult", "Outcome", "Report"]

Outcome = Literal["passed", "failed", "skipped", "not_run", "expected", "stale"]


@dataclass(frozen=True)
class CheckResult:
    """What became of one check.

    Attributes:
        check: Its name.
        outcome: ``"skipped"`` where the engine can't be judged, ``"not_run"`` after the failure
            that ended the run, ``"expected"`` where it failed and is known to, ``"stale"`` where it
            passed and is expected to fail.
        seconds: How long it took.
        failures: What it found, the weightiest first.
        reason: Why it was skipped, not run or expected to fail.
    """

    check: str
    outcome: Outcome
    seconds: float = 0.0
    failures: tuple[ConformanceFailure, ...] = ()
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, failures as dicts."""
        return {
            "check": self.check,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 6),
            "failures": [failure.to_dict() for failure in self.failures],
            "reason": self.reason,
        }


@dataclass
class Report:
    """A run, check by check, in order.

    Attributes:
        profile: Name of the profile.
        results: One result a check.
    """

    profile: str
    results: list[CheckResult] = field(default_factory=list)

    @property
    def failures(self) -> tuple[ConformanceFailure, ...]:
        """All failures but those that are expected, the first one first."""
        broken = [result for result in self.results if result.outcome != "expected"]
        return tuple(failure for result in broken for failure in result.failures)

    @property
    def outcomes(self) -> list[str]:
        """The outcome of each check, in order."""
        return [result.outcome for result in self.results]

    @property
    def conforms(self) -> bool:
        """Whether no check has failed, and at least one was judged."""
        return kit.conforms(self.outcomes)

    @property
    def seconds(self) -> float:
        """How long the checks took together."""
        return sum(result.seconds for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Kit, profile, verdict and results, as in the JSON."""
        return {
            **kit.stamp("engine", self.outcomes),
            "profile": self.profile,
            "conforms": self.conforms,
            "seconds": round(self.seconds, 6),
            "checks": [result.to_dict() for result in self.results],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """The report as strict JSON; an engine's own values that JSON lacks become text.

        Args:
            indent: Spaces a level; None for one line.
        """
        return json.dumps(_plain(self.to_dict()), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """``value`` in the types of JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, ConformanceFailure):
        return _plain(value.to_dict())
    if type(value) in (str, int, bool, type(None)):
        return value
    return value if type(value) is float and abs(value) < float("inf") else repr(value)

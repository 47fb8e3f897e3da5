"""What a run has found, as data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from forwardcache.conformance.failures import ConformanceFailure

__all__ = ["CheckResult", "Report"]


@dataclass(frozen=True)
class CheckResult:
    """What became of one check.

    Attributes:
        check: Its name.
        outcome: ``"skipped"`` where the engine can't be judged, ``"not_run"`` after the failure
            that ended the run.
        seconds: How long it took.
        failures: What it found, the weightiest first.
        reason: Why it was skipped or not run.
    """

    check: str
    outcome: Literal["passed", "failed", "skipped", "not_run"]
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
        """All failures, the first one first."""
        return tuple(failure for result in self.results for failure in result.failures)

    @property
    def conforms(self) -> bool:
        """Whether no check has failed."""
        return not self.failures

    @property
    def seconds(self) -> float:
        """How long the checks took together."""
        return sum(result.seconds for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Profile, verdict and results, as in the JSON."""
        return {
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

"""A case: an engine, how it is run, and the one verdict it must get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from forwardcache.conformance import ConformanceFailure, check_conformance

QUICK: dict[str, Any] = {"cancel_deadline": 0.2, "check_timeout": 5.0, "concurrency": 4}
"""Options for engines that are done at once: short deadlines, few streams."""


@dataclass(frozen=True)
class Case:
    """One row: ``expected`` is the failure's class, or None where the engine conforms."""

    row: str
    factory: Callable[[], Any]
    expected: type[ConformanceFailure] | None = None
    check: str = ""
    profile: str = "seed"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.expected.__name__}: {self.row}" if self.expected else self.row

    def verdict(self, **options: Any) -> ConformanceFailure | None:
        """What the kit says of the engine."""
        try:
            check_conformance(
                self.factory, **{**QUICK, "profile": self.profile, **self.options, **options}
            )
        except ConformanceFailure as failure:
            return failure
        return None


def without_usage(item: Any) -> Any:
    item.pop("completion_usage", None)
    return item


def with_usage(**counts: Any) -> Callable[[Any], Any]:
    def change(item: Any) -> Any:
        return {**item, "completion_usage": {**item["completion_usage"], **counts}}

    return change


def with_reason(reason: Any) -> Callable[[Any], Any]:
    return lambda item: {**item, "finish_reason": reason}


def faults(
    expected: type[ConformanceFailure],
    check: str,
    rows: dict[str, Callable[[], Any]],
    profile: str = "seed",
    **options: Any,
) -> list[Case]:
    return [Case(row, make, expected, check, profile, options) for row, make in rows.items()]

"""Every way in which an engine can run an adapter wrongly, one class a name.

::

    ConformanceFailure
    └── AdapterFailure               what was planted, what was expected, what came, and the floor
        ├── the adapter   AdapterIgnored, PartIgnored, WrongScale, AdaptersMixed, StaleAfterReload
        ├── the base      BaseChanged
        ├── the company   DependsOnBatch, DependsOnPrefix
        └── the values    NotTeacherForced, WrongValues, SubjectFailed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from forwardcache.conformance.failure import ConformanceFailure
from forwardcache.conformance.tables import aligned

__all__ = [
    "AdapterFailure",
    "AdapterIgnored",
    "AdaptersMixed",
    "BaseChanged",
    "DependsOnBatch",
    "DependsOnPrefix",
    "Evidence",
    "NotTeacherForced",
    "PartIgnored",
    "StaleAfterReload",
    "SubjectFailed",
    "WrongScale",
    "WrongValues",
]

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a failure rests on.

    Attributes:
        planted: Which adapter was loaded, and how.
        expected: What a right engine gives.
        came: What this one gave.
        floor: How far apart the values are by rounding alone, root mean square, nats.
        tokens: Of one text, the ids after the first.
        wanted: Their exact log-probabilities, nats.
        given: What came for them, nats.
        base: Their exact log-probabilities without an adapter, nats.
    """

    planted: str
    expected: str
    came: str
    floor: float
    tokens: Sequence[int] = ()
    wanted: Sequence[float] = ()
    given: Sequence[float] = ()
    base: Sequence[float] = ()

    def table(self) -> list[str]:
        """Expected against given, a line a token; those that are furthest apart."""
        if not self.given:
            return []
        rows = list(zip(range(1, len(self.tokens) + 1), *self._columns, strict=True))
        worst = sorted(rows, key=_apart, reverse=True)[:_SHOWN]
        head = ("at", "token", "expected", "given", "base")
        lines = [(str(at), str(token), *map(_nats, values)) for at, token, *values in sorted(worst)]
        more = len(rows) - len(lines)
        return [*aligned([head, *lines]), *([f"({more} more tokens)"] if more else [])]

    @property
    def _columns(self) -> tuple[Sequence[Any], ...]:
        return self.tokens, self.wanted, self.given, self.base

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; what is no number in JSON is text."""
        values = [
            {"token": t, "expected": w, "given": _plain(g), "base": b}
            for t, w, g, b in zip(*self._columns, strict=True)
        ]
        said = {"planted": self.planted, "expected": self.expected, "came": self.came}
        return {**said, "floor_nats": _plain(self.floor), "tokens": values}


class AdapterFailure(ConformanceFailure):
    """An engine broke one rule.

    Attributes:
        evidence: What was planted, expected and received; None on one that no run has made.
    """

    sentence = "the engine does not run its adapters"
    evidence: Evidence | None = None

    def showing(self, evidence: Evidence) -> Self:
        """This failure, with what it rests on.

        Args:
            evidence: What was planted, expected and received.
        """
        self.evidence = evidence
        return self

    @property
    def message_line(self) -> str:
        """The sentence, with what was planted, expected and received, and the floor."""
        said = self.sentence.format(**vars(self))
        shown = self.evidence
        if shown is None:
            return said
        floor = f"floor: {shown.floor:.2g} nats"
        parts = [f"planted: {shown.planted}", f"expected: {shown.expected}", f"came: {shown.came}"]
        return "; ".join((said, *parts, floor))

    def to_dict(self) -> dict[str, Any]:
        """Name, check, sentence, fields and evidence."""
        found = super().to_dict()
        del found["chunks"]
        found["fields"] = {name: _plain(value) for name, value in found["fields"].items()}
        found["evidence"] = None if self.evidence is None else self.evidence.to_dict()
        return found

    def __str__(self) -> str:
        """The sentence, its check, and expected against given by token."""
        table = [] if self.evidence is None else self.evidence.table()
        return "\n".join([super().__str__(), *(["", *table] if table else [])])


class AdapterIgnored(AdapterFailure):
    """The values are the base's."""

    sentence = "the adapter is ignored"


@dataclass(eq=False)
class PartIgnored(AdapterFailure):
    """The values are those of the adapter without one part.

    Attributes:
        part: A kind of module (``q``, ``head``), a layer (``layer 3``), ``biases``, or tokens.
    """

    sentence = "a part of the adapter is ignored: {part}"
    part: str


@dataclass(eq=False)
class WrongScale(AdapterFailure):
    """The values are those of the adapter times a number.

    Attributes:
        factor: The number; 1 would be right.
        part: Which part of it alone, a kind of module, a layer or a pattern; None for all.
    """

    sentence = "the adapter has the wrong scale: {factor:.3g} times its own"
    factor: float
    part: str | None = None

    @property
    def message_line(self) -> str:
        """As for all, with the part."""
        said = super().message_line
        return said if self.part is None else f"{self.part} alone: {said}"


@dataclass(eq=False)
class WrongValues(AdapterFailure):
    """The values are wrong in a way that has no name here.

    Attributes:
        distance: Root mean square from the exact values, nats; infinity where a value is none.
        floor: What rounding explains, nats.
    """

    sentence = "the values are {distance:.3g} nats from the exact ones, the floor is {floor:.2g}"
    distance: float
    floor: float


class StaleAfterReload(AdapterFailure):
    """After a reload under one name the values are those of what it was before."""

    sentence = "after a reload the adapter is still the one before"


class BaseChanged(AdapterFailure):
    """The base's values change when an adapter is loaded, used or unloaded."""

    sentence = "the base is no longer the base"


class AdaptersMixed(AdapterFailure):
    """The values are those of another adapter, or of the base beside adapters."""

    sentence = "adapters are mixed up"


class DependsOnBatch(AdapterFailure):
    """The values depend on what else is asked, at once or before."""

    sentence = "the values depend on the order or company in which they are asked for"


class DependsOnPrefix(AdapterFailure):
    """The values depend on an earlier text that begins in the same way."""

    sentence = "the values depend on what was asked before with the same beginning"


class NotTeacherForced(AdapterFailure):
    """The values are those of other tokens: shifted by a place, or sampled."""

    sentence = "the values are not those of the tokens that were given"


@dataclass(eq=False)
class SubjectFailed(AdapterFailure):
    """The engine raised, or gave something that is no list of log-probabilities.

    Attributes:
        why: What it raised or gave.
    """

    sentence = "the engine failed: {why}"
    why: str


def _apart(row: Sequence[Any]) -> float:
    gap = abs(row[2] - row[3])
    return float("inf") if math.isnan(gap) else float(gap)


def _nats(value: float) -> str:
    return f"{value:.4f}"


def _plain(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else repr(value)

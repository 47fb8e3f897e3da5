"""What the rows of an export come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from forwardcache.jobs.export.preference import CHOSEN, REJECTED
from forwardcache.jobs.rows import Row
from forwardcache.jobs.skips import Skipped


class ExportTotals(Protocol):
    """What was found.

    Attributes:
        rows: Rows that were written, those of an earlier run included.
        tokens_run: Tokens of the rows that were not in the cache.
        skipped: Rows that the model failed on, those of an earlier run included.
    """

    rows: int
    tokens_run: int
    skipped: list[Skipped]

    def note(self, row: Row) -> None:
        """Take one row into account."""

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""

    def lines(self) -> Sequence[tuple[str, str]]:
        """The figures for a person: what each is, and its value."""


@dataclass(slots=True)
class TeacherTotals:
    """Of a teacher's rows.

    Attributes:
        rows: As in ``ExportTotals``.
        tokens_run: As in ``ExportTotals``.
        skipped: As in ``ExportTotals``.
        positions: Positions at which tokens are told.
        tokens: Tokens that are told in all.
        outside: The mass outside of them, summed over positions.
    """

    rows: int = 0
    tokens_run: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    positions: int = 0
    tokens: int = 0
    outside: float = 0.0

    def note(self, row: Row) -> None:
        """Take one row into account."""
        self.rows += 1
        self.positions += len(row["tail_logprobs"])
        self.tokens += row["offsets"][-1]
        self.outside += sum(math.exp(tail) for tail in row["tail_logprobs"] if tail is not None)

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "texts": self.rows,
            "positions": self.positions,
            "tokens_a_position": _mean(self.tokens, self.positions),
            "mass_outside": _mean(self.outside, self.positions),
        }

    def lines(self) -> Sequence[tuple[str, str]]:
        """The figures for a person: what each is, and its value."""
        tokens, outside = (_mean(one, self.positions) for one in (self.tokens, self.outside))
        return [
            ("texts", f"{self.rows:,}"),
            ("positions", f"{self.positions:,}"),
            ("tokens a position, mean", "-" if tokens is None else f"{tokens:,.2f}"),
            ("probability outside, mean", "-" if outside is None else f"{outside:.3g}"),
        ]


@dataclass(slots=True)
class ReferenceTotals:
    """Of pairs.

    Attributes:
        rows: As in ``ExportTotals``.
        tokens_run: As in ``ExportTotals``.
        skipped: As in ``ExportTotals``.
        chosen: Sum of the chosen completions' log-probabilities, nats.
        rejected: The same of the rejected ones.
        above: Pairs whose chosen completion is the more likely one.
        cut: Completions that are cut at the longest length.
        merged: Pairs of which a token spans the end of the prompt.
    """

    rows: int = 0
    tokens_run: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    chosen: float = 0.0
    rejected: float = 0.0
    above: int = 0
    cut: int = 0
    merged: int = 0

    def note(self, row: Row) -> None:
        """Take one row into account."""
        chosen, rejected = (row[name] if row[name] is not None else math.nan
                            for name in (CHOSEN, REJECTED))  # fmt: skip
        self.rows += 1
        self.chosen += chosen
        self.rejected += rejected
        self.above += chosen > rejected

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "pairs": self.rows,
            CHOSEN: _mean(self.chosen, self.rows),
            REJECTED: _mean(self.rejected, self.rows),
            "chosen_above": _mean(self.above, self.rows),
            "cut_completions": self.cut,
            "merged_boundaries": self.merged,
        }

    def lines(self) -> Sequence[tuple[str, str]]:
        """The figures for a person: what each is, and its value."""
        means = [_mean(one, self.rows) for one in (self.chosen, self.rejected)]
        chosen, rejected = ("-" if one is None else f"{one:,.4f}" for one in means)
        above = _mean(self.above, self.rows)
        return [
            ("pairs", f"{self.rows:,}"),
            (f"{CHOSEN}, mean, nats", chosen),
            (f"{REJECTED}, mean, nats", rejected),
            ("chosen is the more likely", "-" if above is None else f"{above:.1%}"),
            ("completions that were cut", f"{self.cut:,}"),
            ("tokens across a prompt's end", f"{self.merged:,}"),
        ]


def _mean(total: float, count: int) -> float | None:
    """None where there is none, or it is no finite number."""
    return total / count if count and math.isfinite(total) else None

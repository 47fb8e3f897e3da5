"""What the receipts of a job come to, with a few bytes a prompt and view in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forwardcache.distributed.counters import add_gained
from forwardcache.distributed.parts.receipts import Receipt, float64s, uint64s
from forwardcache.instrumentation import BackendStats
from forwardcache.jobs.skips import Skipped
from forwardcache.operation import Figure
from forwardcache.statistics import Values


class Kept(NamedTuple):
    """What stays of a receipt in memory: some bytes a prompt and view.

    Attributes:
        file: The part.
        rows: Its rows.
        hits: Those of them whose values were there already.
        skipped: As of ``Receipt``.
        fields: As of ``Receipt``.
        fewest_tokens: As of ``Receipt``.
        most_outside: As of ``Receipt``.
        texts: uint64[n]: of each prompt with rows, what it counts as.
        differences: Per view but base: float64[n], nats.
    """

    file: str
    rows: int
    hits: int
    skipped: Sequence[Sequence[Any]]
    fields: Sequence[str]
    fewest_tokens: int | None
    most_outside: float
    texts: NDArray[np.uint64]
    differences: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, receipt: Receipt) -> Kept:
        """What stays of a receipt."""
        differences = {view: float64s(each) for view, each in receipt.differences.items()}
        return cls(
            receipt.file, receipt.rows, receipt.hits, receipt.skipped, receipt.fields,
            receipt.fewest_tokens, receipt.most_outside, uint64s(receipt.texts), differences,
        )  # fmt: skip


@dataclass(slots=True)
class Tally:
    """The sums over receipts; each chunk of the job is noted once, equal ones too.

    Args:
        figure: How the operation's values are compared with base's.

    Attributes:
        rows: Rows of all chunks.
        hits: Those of them whose values were there already when they were computed.
        skipped: Prompts that the model failed on.
        tokens_run: Tokens of the prompts that were run in this run.
        nonfinite: Values of this run that were not finite.
        stats: What the workers' counters gained in this run.
        fields: In which of the figure's fields differences are.
        fewest_tokens: The fewest tokens that a divergence was computed over; None where all were.
        most_outside: The largest probability of base outside of them.
    """

    figure: Figure
    rows: int = 0
    hits: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    tokens_run: int = 0
    nonfinite: int = 0
    stats: dict[str, int | float] = field(default_factory=lambda: dict(BackendStats().to_dict()))
    fields: set[str] = field(default_factory=set)
    fewest_tokens: int | None = None
    most_outside: float = 0.0
    _texts: list[NDArray[np.uint64]] = field(default_factory=list)
    _differences: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def note_rows(self, kept: Kept, lines: Iterable[int]) -> None:
        """Take a chunk's rows into account.

        Args:
            kept: What is known of its part.
            lines: The line of each prompt of the chunk.
        """
        self.rows += kept.rows
        self.hits += kept.hits
        numbers = list(lines) if kept.skipped else []
        for position, own, reason in kept.skipped:
            line = numbers[position]
            self.skipped.append(Skipped(line, line if own is None else own, reason))
        self.fields.update(kept.fields)
        if kept.fewest_tokens is not None:
            self.fewest_tokens = min(kept.fewest_tokens, self.fewest_tokens or 2**63)
        self.most_outside = max(self.most_outside, kept.most_outside)
        if kept.differences:
            self._texts.append(kept.texts)
            for view, values in kept.differences.items():
                self._differences.setdefault(view, []).append(values)

    def note_work(self, receipt: Receipt) -> None:
        """Take what a worker did in this run into account."""
        self.tokens_run += receipt.tokens_run
        self.nonfinite += receipt.nonfinite
        add_gained(self.stats, receipt.stats)

    @property
    def is_compared(self) -> bool:
        """Whether there are differences from base."""
        return bool(self._differences)

    def values(self) -> dict[str, Values]:
        """By view: its differences from base, of the prompts in order."""
        texts: Any = np.concatenate(self._texts).tolist() if self._texts else []
        return {
            view: Values(np.concatenate(values), texts)
            for view, values in self._differences.items()
        }

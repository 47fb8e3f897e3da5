"""Rows of an export: what a teacher says at each position, or a pair with its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from forwardcache.jobs.export.plan import ExportPlan, fields_of
from forwardcache.jobs.export.preference import CHOSEN, REJECTED
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import Row, finite, written
from forwardcache.operation import Column
from forwardcache.scoring import TopKByPosition

TEACHER: Mapping[str, Column] = {
    "line": "int64",
    "view": "text",
    "input_ids": "int64[]",
    "completion_mask": "int64[]",
    "token_ids": "int64[]",
    "logprobs": "float32[]",
    "offsets": "int64[]",
    "tail_logprobs": "float32[]",
}
"""The columns of a teacher's table, between ``id`` and ``input``."""

REFERENCE: Mapping[str, Column] = {CHOSEN: "float64", REJECTED: "float64"}
"""The columns that a table of pairs gets."""


class RowMaker(Protocol):
    """Makes the rows of an export."""

    def rows(self, positions: Sequence[int], values: Sequence[Sequence[Any]]) -> list[Row]:
        """The rows of some positions in the plan, of the values of each."""

    def head(self, prompt: Prompt) -> Row:
        """What a row has of the input alone."""

    def name_of(self, row: Row) -> Any:
        """What tells a row from those of other lines; the same of its head."""


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """Rows of a teacher.

    Attributes:
        plan: What is exported.
        mass: Of each position only the fewest tokens that hold so much probability; None for all.
    """

    plan: ExportPlan
    mass: float | None

    def rows(self, positions: Sequence[int], values: Sequence[Sequence[Any]]) -> list[Row]:
        """The rows of some positions in the plan, of the value of each."""
        fields = written([_cut(value, self.mass) for [value] in values])
        return [self._row(at, each) for at, each in zip(positions, fields, strict=True)]

    def head(self, prompt: Prompt) -> Row:
        """What a row has of the input alone."""
        own = {"id": prompt.id, "line": prompt.line, "view": self.plan.view.name}
        return {**own, "input": prompt.carried}

    def name_of(self, row: Row) -> Any:
        """Line and view."""
        return row.get("line"), row.get("view")

    def _row(self, at: int, fields: Row) -> Row:
        asked = self.plan.asked[at]
        [ids] = asked.tokens
        head = self.head(self.plan.job.source.prompts[at])
        carried = head.pop("input")
        mask = [0] * asked.completion + [1] * (len(ids) - asked.completion)
        own = {"input_ids": ids.tolist(), "completion_mask": mask}
        return {**head, **own, **fields, "input": carried}


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """Rows of pairs, with the log-probability of each completion.

    Attributes:
        plan: What is exported.
    """

    plan: ExportPlan

    def rows(self, positions: Sequence[int], values: Sequence[Sequence[Any]]) -> list[Row]:
        """The rows of some positions in the plan, of the two values of each."""
        prompts = self.plan.job.source.prompts
        return [
            {
                **self.head(prompts[at]),
                CHOSEN: finite(chosen.logprob),
                REJECTED: finite(rejected.logprob),
            }
            for at, (chosen, rejected) in zip(positions, values, strict=True)
        ]

    def head(self, prompt: Prompt) -> Row:
        """What a row has of the input alone: all that a line has."""
        return fields_of(prompt)

    def name_of(self, row: Row) -> Any:
        """Its fields but for the two new ones."""
        return {name: value for name, value in row.items() if name not in REFERENCE}


def _cut(value: TopKByPosition, mass: float | None) -> dict[str, Any]:
    """The fields of a row: all k tokens of each position, or those that hold ``mass``."""
    k, tails = value.k, value.tail_logprobs
    counts = np.full(len(value), k)
    ids, logprobs = value.token_ids, value.logprobs
    if mass is not None:
        table = logprobs.reshape(-1, k).astype(np.float64)
        kept = _kept(table, mass)
        counts, tails = kept.sum(-1), _tails(table, kept, tails)
        ids, logprobs = ids[kept.ravel()], logprobs[kept.ravel()]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return {"token_ids": ids, "logprobs": logprobs, "offsets": offsets, "tail_logprobs": tails}


def _kept(logprobs: NDArray[np.float64], mass: float) -> NDArray[np.bool_]:
    """Which of [m, k] are kept: those before which less than ``mass`` stands."""
    before = np.cumsum(np.exp(logprobs), axis=-1) - np.exp(logprobs)
    kept: NDArray[np.bool_] = before < mass
    # Where nothing is a number, the first is kept all the same: each position has an entry.
    kept[:, 0] = True
    return kept


def _tails(
    logprobs: NDArray[np.float64], kept: NDArray[np.bool_], tails: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Log of the mass outside what is kept."""
    dropped = np.where(kept, -np.inf, logprobs)
    whole = np.logaddexp(np.logaddexp.reduce(dropped, axis=-1), tails.astype(np.float64))
    return whole.astype(np.float32)

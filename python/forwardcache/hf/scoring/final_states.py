"""The final hidden states of rows, run as an operation is, for whoever compares models or views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from forwardcache.operation import Column, Operation


class HeadNotAloneError(Exception):
    """The head can't be run without the rest of the model."""


class FinalStates(Operation):
    """The states of each row.

    Attributes:
        output: The type of the body's output; None before a row was run.
    """

    name = "compare"
    columns: ClassVar[Mapping[str, Column]] = {}

    def __init__(self) -> None:
        self.output: type[Any] | None = None

    def run(self, runner: Any, tasks: Sequence[Any]) -> list[Any]:
        """The states of each task's tokens.

        Raises:
            HeadNotAloneError: they would be of no use.
        """
        found = runner.final_states([task.encoded.fed for task in tasks])
        if found is None:
            raise HeadNotAloneError
        self.output = found.kind
        return list(found.rows)

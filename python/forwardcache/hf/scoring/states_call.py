"""A call for the hidden states of some rows of tokens, which are kept under the body's key."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from forwardcache.hf.batch.row import Encoded, Row
from forwardcache.hf.model.identity import ModelState
from forwardcache.hf.scoring.body_space import BodySpace
from forwardcache.hf.scoring.call import Call
from forwardcache.hf.scoring.task import Task
from forwardcache.operations.hidden_states import HiddenStates


class StatesCall(Call):
    """One call for the states of rows of tokens. An item is a row; its key is its tokens.

    Args:
        state: The state of the model that it is for.
        space: Where the states stand.
        rows: The rows, at least one token each.
        unasked: How many of their tokens nobody asked for.
    """

    def __init__(
        self, state: ModelState, space: BodySpace, rows: Sequence[Row], *, unasked: int
    ) -> None:
        # What would read texts has nothing to read.
        nothing: Any = None
        super().__init__(
            state,
            space.view,
            HiddenStates(),
            rows,
            nothing,
            options=nothing,
            key_space=space.key_space,
        )
        self._rows = list(rows)
        self._keys = [",".join(map(str, row)) for row in rows]
        self._scope = space.scope
        self._unasked = unasked

    def keys(self) -> list[tuple[int, Any]]:
        """Position and key of each row."""
        return list(enumerate(self._keys))

    def encode(self, found: Container[int] = ()) -> None:
        """Makes the tasks; rows have their tokens already."""
        pairs = zip(self._rows, self._keys, strict=True)
        self.tasks = [Task(row, Encoded(row, len(row)), key) for row, key in pairs]
        self._outcomes = list(self.tasks)

    def newly(self, tokens: int) -> int:
        """Those that nobody asked for come last, and aren't counted."""
        return min(tokens, self.tokens() - self.reported)

    def tokens(self) -> int:
        """Tokens of all rows that were asked for."""
        return sum(map(len, self._rows)) - self._unasked

    def is_computed(self) -> list[bool]:
        """For each row, whether this call ran it: of equal ones the first."""
        left = set(self.computed).difference(self.fetched)
        flags = []
        for key in self._keys:
            flags.append(key in left)
            left.discard(key)
        return flags

    @property
    def scope(self) -> bytes:
        """Whatever else decides the states."""
        return self._scope

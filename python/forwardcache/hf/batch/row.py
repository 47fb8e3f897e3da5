"""The tokens of one item, as a row that goes through the model."""

from __future__ import annotations

from dataclasses import dataclass

Row = tuple[int, ...]
"""Tokens that go through the model."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one item.

    Attributes:
        token_ids: All tokens, scored or read.
        first_scored: Position of the first token whose log-probability is asked for; the number of
            tokens if none of these is (the next one is).
        spans_boundary: Whether the first scored token begins inside the prompt: a merge crosses the
            boundary between prompt and completion.
    """

    token_ids: Row
    first_scored: int
    spans_boundary: bool = False

    @property
    def fed(self) -> Row:
        """The tokens that the model reads: a last one that is itself scored is not read."""
        if self.first_scored < len(self.token_ids):
            return self.token_ids[:-1]
        return self.token_ids

    @property
    def scored(self) -> Row:
        """The tokens whose log-probability is asked for."""
        return self.token_ids[self.first_scored :]

"""Prompts that can't be scored and are left out, where ``--on-error skip`` asks for that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

from forwardcache.errors import InvalidInputError

OnError: TypeAlias = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line of the input of which there are no rows.

    Attributes:
        line: Its number, from 1.
        id: What its rows would have had as their id.
        reason: Why it can't be scored.
    """

    line: int
    id: str | float | bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def in_order(*skipped: Iterable[Skipped]) -> list[Skipped]:
    """Those that were skipped at several stages, by line."""
    return sorted(chain(*skipped), key=lambda one: one.line)


def skipped_line(skipped: Sequence[Skipped], listed: str | None, *, one: str = "prompt") -> str:
    """How many there are and what the first of them is, for a person.

    Args:
        skipped: At least one.
        listed: Where all of them are listed; None where they are not.
        one: What each of them is called.
    """
    first = min(skipped, key=lambda one: one.line)
    count = f"1 {one} was" if len(skipped) == 1 else f"{len(skipped):,} {one}s were"
    told = f"{count} skipped; the first, line {first.line}: {first.reason}"
    return told if listed is None else f"{told} (all are in {listed})"


def nothing_left(
    name: str, skipped: Sequence[Skipped], *, one: str = "prompt"
) -> InvalidInputError:
    """The error for an input without anything that can be scored.

    Args:
        name: What to call the input.
        skipped: What it had.
        one: What each of them is called.
    """
    hint = f" that can be scored ({skipped_line(skipped, None, one=one)})" if skipped else ""
    return InvalidInputError(f"{name} holds no {one}{hint}")

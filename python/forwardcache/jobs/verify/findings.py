"""What of a table is not as it is when it is computed again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import Row, finite
from forwardcache.jobs.verify.table import Name, Table
from forwardcache.operation import Apart

_FROM_THE_INPUT = ("id", "input")
# Of the run, and not of the values.
_NOT_JUDGED = frozenset({"line", "view", "hit", *_FROM_THE_INPUT})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that isn't as it should be.

    Attributes:
        line: Of the prompt; None of the whole table.
        view: None of all of them.
        field: What of the row, or what is wrong with it.
        recorded: What the table has.
        computed: What it should have.
        difference: How far these are apart; None where they are not two numbers.
        bound: How far they may be; None likewise.
        unit: What both are counted in, nats or positions.
        is_excused: Whether other arithmetic than the recorded one may explain it.
    """

    line: int | None
    view: str | None
    field: str
    recorded: Any = None
    computed: Any = None
    difference: float | None = None
    bound: float | None = None
    is_excused: bool = False
    unit: str = "nats"

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def findings_of_rows(expected: Sequence[Name], table: Table, counted: int) -> Iterator[Finding]:
    """Rows that are missing, stand twice, belong to nothing, or are in another order.

    Args:
        expected: Line and view of every row that the run should have written, in order.
        table: The rows that there are.
        counted: How many rows the run says that it wrote.
    """
    if counted != len(table.names):
        yield Finding(None, None, "rows", len(table.names), counted)
    if table.names == expected:
        return
    wanted, found = set(expected), Counter(table.names)
    yield from (Finding(*name, "no row") for name in expected if name not in found)
    yield from (Finding(*name, "no such row in this run") for name in found if name not in wanted)
    yield from (
        Finding(*name, "rows of it", count, 1) for name, count in found.items() if count > 1
    )
    if found == Counter(expected):
        at = next(at for at, pair in enumerate(expected) if pair != table.names[at])
        yield Finding(*table.names[at], "another order from this row on")


def findings_of_input(row: Row, prompt: Prompt) -> Iterator[Finding]:
    """Where a row says something else of its prompt than the file of prompts.

    Args:
        row: As it was read.
        prompt: The prompt that it is of.
    """
    for name, own in zip(_FROM_THE_INPUT, (prompt.id, prompt.carried), strict=True):
        if not _is_same(row.get(name), own):
            yield Finding(prompt.line, row["view"], name, row.get(name), own)


def findings_of_fields(
    head: Mapping[str, str], columns: Collection[str], row: Row
) -> Iterator[Finding]:
    """Where a row is of another op or reference, or has fields that nothing computes.

    Args:
        head: Fields that every row has, with their value.
        columns: Names of the fields that are computed.
        row: As it was read.
    """
    for name, value in head.items():
        if row.get(name) != value:
            yield Finding(row["line"], row["view"], name, row.get(name), value)
    for name in row.keys() - (_NOT_JUDGED | head.keys() | set(columns)):
        yield Finding(row["line"], row["view"], f"a field {name}", row[name])


def of_apart(row: Row, apart: Apart, *, bound: float, wide: float) -> Finding | None:
    """A field that is further off than its bound.

    Args:
        row: As it was read.
        apart: How far the field is off.
        bound: Nats a token.
        wide: The same where other arithmetic may explain it; at least ``bound``.

    Returns:
        None for one that isn't.
    """
    if apart.nats <= bound:
        return None
    is_number = math.isfinite(apart.difference)
    return Finding(
        row["line"],
        row["view"],
        apart.field,
        apart.kept,
        apart.fresh,
        finite(apart.difference),
        bound * apart.tolerances if is_number else None,
        apart.nats <= wide,
        apart.unit,
    )


def _is_same(kept: Any, own: Any) -> bool:
    """Whether a value of the input is what a row has of it.

    A table has null for what isn't there, and 1.0 for 1 where another line has 1.5.
    """
    if isinstance(kept, Mapping) and isinstance(own, Mapping):
        return all(_is_same(kept.get(name), own.get(name)) for name in chain(kept, own))
    if isinstance(kept, list) and isinstance(own, list):
        return len(kept) == len(own) and all(map(_is_same, kept, own))
    if kept is None and isinstance(own, Mapping):
        return all(each is None for each in own.values())
    if isinstance(kept, bool) or isinstance(own, bool):
        return kept is own
    return bool(kept == own)

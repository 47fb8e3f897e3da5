"""Rows of a part read again as what was found, so that a run goes on where another ended.

A row holds every array of a text and view with digits that read back as the same number (``digits``
for float32, Python's own for float64), so nothing is computed again, and the figures of a run that
went on are those of one that didn't stop. JSON has no infinities and no NaN: what a row writes as
null is noted beside the rows before they are written (``beyond_json``). A row with a null of which
nothing was noted isn't taken for known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.jobs.diff.found import Found
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.diff.rows import ARRAYS
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.resume import prompts_at_ends
from forwardcache.jobs.rows import Row
from forwardcache.scoring import PositionDifferences

BEYOND = "beyond json"
"""What is noted of numbers that JSON hasn't."""

_DTYPES: Mapping[str, Any] = {
    "int64[]": np.int64, "float64[]": np.float64, "float32[]": np.float32, "bool[]": np.bool_
}  # fmt: skip
_FLOATS = [name for name, kind in ARRAYS.items() if kind in {"float64[]", "float32[]"}]


def take_up(part: PartFile, plan: DiffPlan, kept: Kept) -> tuple[Found, int]:
    """What the rows of an unfinished run hold.

    Args:
        part: Its rows; those behind the last whole chunk of texts are cut off.
        plan: What is compared.
        kept: What was noted beside the rows.

    Returns:
        What was found of the texts that are done, and how many these are: of whole chunks, so that
        the others are compared in the batches that they would have been compared in.
    """
    known_skips = part.skipped()
    lines = {one.line for one in known_skips}
    ends = prompts_at_ends(plan, lines)
    names = [view.name for view in plan.views]
    expected = [
        (prompt.line, name) for prompt in plan.prompts if prompt.line not in lines for name in names
    ]
    found = Found({name: [] for name in names})
    pending: list[tuple[str, PositionDifferences]] = []
    done = end = 0
    for count, (row, offset) in enumerate(part.whole_rows(expected), start=1):
        one = differences_of(row, kept)
        if one is None:
            break
        pending.append((row["view"], one))
        if count in ends:
            done, end = ends[count], offset
            for name, each in pending:
                found.items[name].append(each)
            pending.clear()
            found.rows = count
    part.cut(end)
    found.positions = [at for at in range(done) if plan.prompts[at].line not in lines]
    done_lines = {prompt.line for prompt in plan.prompts[:done]}
    found.skipped = [one for one in known_skips if one.line in done_lines]
    part.set_skipped(found.skipped)
    return found, done


def note_beyond_json(kept: Kept, rows: Sequence[Row], found: Sequence[PositionDifferences]) -> None:
    """Note what of some rows is no finite number, before they are written.

    Args:
        kept: Where.
        rows: As they are going to be written.
        found: What each is of.

    Raises:
        MachineError: the disk is full or fails.
    """
    for row, one in zip(rows, found, strict=True):
        if beyond := beyond_json(one):
            kept.note(BEYOND, _name(row), beyond)


def beyond_json(one: PositionDifferences) -> dict[str, dict[str, float]]:
    """By field, by number of the position as text: what is no finite number.

    Args:
        one: What was found of a text.
    """
    found = {}
    for name in _FLOATS:
        array: NDArray[Any] = getattr(one, name)
        at = np.flatnonzero(~np.isfinite(array))
        if len(at):
            found[name] = {str(number): float(array[number]) for number in at.tolist()}
    return found


def differences_of(row: Row, kept: Kept) -> PositionDifferences | None:
    """What a row is of; None where it can't be told, bit for bit.

    Args:
        row: As it was read.
        kept: What was noted beside it.
    """
    beyond = kept.find(BEYOND, _name(row)) or {}
    arrays = {}
    try:
        for name, kind in ARRAYS.items():
            values = list(row[name])
            for number, value in beyond.get(name, {}).items():
                values[int(number)] = value
            if any(value is None for value in values):
                return None
            arrays[name] = np.array(values, dtype=_DTYPES[str(kind)])
        return PositionDifferences(**arrays)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None


def _name(row: Row) -> str:
    return f"{row['line']}:{row['view']}"

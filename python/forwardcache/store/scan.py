"""Every row of a store's file, also of one that is damaged in places.

A page that can't be read hides the rows that are in it, and those of all pages below it. A range
of numbers that can't be read as a whole is therefore cut in two, again and again, until what is
left can be read or is one number. Wide ranges go first, so that what damage has made endless costs
nothing of the rest.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeVar

from forwardcache.store.schema import TOTAL

_ROWS_AT_ONCE = 1000
_LAST = 2**63 - 1
# More rows than this no page holds: each has a key of 32 bytes and a seal.
_ROWS_IN_A_PAGE = 64
# Ranges that can't be read until a scan gives up: a few for each row that can be missing.
_MOST_FAILURES = 2_000_000

T = TypeVar("T")

# A row's number, key, value, kind and time of use, whatever type damage has given them.
Row = tuple[int, bytes, bytes, int, float]


class Read(Protocol):
    """Asks the file; None where it is damaged. Any other failure is raised."""

    def __call__(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``work`` gives."""


class Scan:
    """One way through all rows, by their numbers.

    Args:
        read: Asks the file.

    Attributes:
        unreadable: Rows that are missing because they can't be read; at least one if any part of
            the table can't be.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self.unreadable = 0

    def pages(self) -> Iterator[list[Row]]:
        """The rows that can be read, in the order of their numbers, up to a thousand at a time."""
        before, seen, failures = self._total(), 0, 0
        todo = deque([(1, _LAST)])
        while todo and failures < _MOST_FAILURES:
            low, high = todo.popleft()
            rows = self._rows(low, high)
            if rows is None:
                failures += 1
                todo.extend(self._halves(low, high))
                continue
            seen += len(rows)
            if len(rows) == _ROWS_AT_ONCE and rows[-1][0] < high:
                todo.append((rows[-1][0] + 1, high))
            if rows:
                yield rows
        # Others may put and prune meanwhile: what is missing was there at both times.
        expected = min(before, self._total())
        self.unreadable = max(expected - seen, int(failures > 0))

    def _rows(self, low: int, high: int) -> list[Row] | None:
        rows = self._read(partial(_between, low=low, high=high))
        if rows is None:
            return None
        # A changed bit may lead to another page, and for ever back to it.
        numbers = [low - 1, *(row[0] for row in rows)]
        if any(one >= other for one, other in pairwise(numbers)):
            return None
        return rows

    def _halves(self, low: int, high: int) -> list[tuple[int, int]]:
        if high == _LAST:
            return [(low, max(self._highest(low), low))]
        if low == high:
            return []
        middle = (low + high) // 2
        return [(low, middle), (middle + 1, high)]

    def _highest(self, low: int) -> int:
        """The last row's number, by whatever says it; else as many as fit into the file."""
        found = [self._read(partial(_one, statement=each)) for each in _HIGHEST]
        known = [each for each in found if isinstance(each, int)]
        if known:
            return max(known)
        pages = self._read(partial(_one, statement="PRAGMA page_count"))
        return low + _ROWS_IN_A_PAGE * (pages or 1)

    def _total(self) -> int:
        total = self._read(partial(_one, statement=TOTAL))
        return total if isinstance(total, int) else 0


# The table's own end, and the two indexes, in which every number is too.
_HIGHEST = (
    "SELECT max(id) FROM sealed NOT INDEXED",
    "SELECT max(id + 0) FROM sealed INDEXED BY sealed_by_use",
    "SELECT max(id + 0) FROM sealed INDEXED BY sqlite_autoindex_sealed_1",
)


def _between(connection: sqlite3.Connection, low: int, high: int) -> list[Row]:
    rows = connection.execute(
        "SELECT id, key, blob, kind, used FROM sealed NOT INDEXED WHERE id BETWEEN ? AND ? "
        "ORDER BY id LIMIT ?",
        # Past the last one SQLite would look at the next page, which may be a damaged one.
        (low, high, min(_ROWS_AT_ONCE, high - low + 1)),
    )
    return rows.fetchall()


def _one(connection: sqlite3.Connection, statement: str) -> int | None:
    row = connection.execute(statement).fetchone()
    found: int | None = row[0] if row else None
    return found

"""Which rows begin alike, so that what they share is run once. Knows neither torch nor text.

In lexical order, rows that begin alike stand together, and the tokens that neighbours share are the
*links* between them. Every run of rows could be one family, sharing its smallest link, or fall
apart at that link into smaller families that share more: all conversations begin with the same
token, and those of one prompt with a thousand. One pass over the links, with a stack of the runs
that are still open, finds what saves most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Row = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that begin alike, whose prefix is run once.

    Attributes:
        items: Positions in the planned sequence, in the rows' lexical order.
        shared: Tokens of the prefix.
    """

    items: tuple[int, ...]
    shared: int


@dataclass(slots=True)
class _Run:
    """Neighbours that share ``level`` tokens; ``saved`` and ``families`` are those of its parts."""

    level: int
    first: int
    saved: float = 0.0
    families: list[Family] = field(default_factory=list)

    def absorb(self, part: _Run) -> None:
        self.saved += part.saved
        self.families += part.families


def plan_families(rows: Sequence[Row], limits: Sequence[int], *, pass_cost: int) -> list[Family]:
    """Finds rows whose common prefix is cheaper run once.

    Args:
        rows: Tokens of each row.
        limits: Most tokens of each row that may be shared: what precedes its first needed position,
            and that position's own token.
        pass_cost: What a pass of the model costs beside its tokens, in tokens.

    Returns:
        Families, each at least a quarter cheaper than its rows one by one. No row is in two.
    """
    order = sorted(range(len(rows)), key=lambda item: rows[item])
    plan = _Plan(order, [len(rows[item]) for item in order], pass_cost)
    for place in range(len(order) - 1):
        one, other = order[place], order[place + 1]
        most = min(limits[one], limits[other])
        plan.add(place, _common(rows[one][:most], rows[other][:most]))
    return plan.finish()


class _Plan:
    def __init__(self, order: Sequence[int], lengths: Sequence[int], pass_cost: int) -> None:
        self._order = order
        self._pass_cost = pass_cost
        self._ends = [0]
        for length in lengths:
            self._ends.append(self._ends[-1] + length)
        self._open = [_Run(0, 0)]

    def add(self, place: int, link: int) -> None:
        """Takes the link between the rows at ``place`` and behind it, in order."""
        begun = _Run(link, place)
        while self._open[-1].level > link:
            closed = self._closed(self._open.pop(), place)
            begun.first = closed.first
            if self._open[-1].level >= link:
                self._open[-1].absorb(closed)
            else:
                begun.absorb(closed)
        if self._open[-1].level < link:
            self._open.append(begun)

    def finish(self) -> list[Family]:
        self.add(len(self._order) - 1, 0)
        return self._open[0].families

    def _closed(self, run: _Run, last: int) -> _Run:
        """``run`` as one family or as its parts, whichever saves more."""
        count = last - run.first + 1
        apart = self._ends[last + 1] - self._ends[run.first]
        saved = run.level * (count - 1) - 2 * self._pass_cost
        if saved >= 0.25 * apart and saved > run.saved:
            whole = Family(tuple(self._order[run.first : last + 1]), run.level)
            return _Run(run.level, run.first, saved, [whole])
        return run


def plan_packs(
    family: Family,
    rests: Sequence[int],
    needed: Sequence[int],
    *,
    most_tokens: int,
    most_needed: int,
) -> list[tuple[int, ...]]:
    """Splits a family into what runs behind its prefix at once.

    Args:
        family: The rows.
        rests: Tokens of each row of the planned sequence behind the prefix.
        needed: Positions of each whose logits are needed.
        most_tokens: Most tokens of a pack of several rows.
        most_needed: Most needed positions of a pack of several rows.
    """
    packs: list[tuple[int, ...]] = []
    tokens = positions = 0
    for item in family.items:
        tokens, positions = tokens + rests[item], positions + needed[item]
        if packs and tokens <= most_tokens and positions <= most_needed:
            packs[-1] = (*packs[-1], item)
        else:
            packs.append((item,))
            tokens, positions = rests[item], needed[item]
    return packs


def _common(left: Row, right: Row) -> int:
    """How many tokens both begin with."""
    if left == right:
        return len(left)
    return next(
        (at for at, (mine, yours) in enumerate(zip(left, right, strict=False)) if mine != yours),
        min(len(left), len(right)),
    )

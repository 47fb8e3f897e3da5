"""Which rows share a prefix, so that it is computed once. Knows neither torch nor text.

In lexical order, rows that begin alike are neighbours, and the tokens that two neighbours share are
the *link* between them. Any span of rows could be one prefix group, which shares its smallest link,
or be split at that link into smaller groups that share more: all conversations begin with the same
token, and those of one prompt with a thousand. One walk over the links, with a stack of the spans
that are still open, finds what saves most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from forwardcache.hf.batch.row import Row


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Rows that share a prefix, which is computed once.

    Attributes:
        items: Positions in the planned sequence, in the rows' lexical order.
        shared: Tokens of the prefix.
    """

    items: tuple[int, ...]
    shared: int


@dataclass(slots=True)
class _Span:
    """Neighbours that share ``level`` tokens; ``saved`` and ``groups`` are of its parts."""

    level: int
    first: int
    saved: float = 0.0
    groups: list[PrefixGroup] = field(default_factory=list)

    def absorb(self, part: _Span) -> None:
        self.saved += part.saved
        self.groups += part.groups


def plan_prefix_groups(
    rows: Sequence[Row], limits: Sequence[int], *, forward_cost: int
) -> list[PrefixGroup]:
    """Finds rows whose common prefix is cheaper to compute once.

    Args:
        rows: Tokens of each row.
        limits: Most tokens of each row that may be shared: what precedes its first needed position,
            and that position's own token.
        forward_cost: What a forward costs in addition to its tokens, in tokens.

    Returns:
        Prefix groups, each at least a quarter cheaper than its rows one by one. No row is in two of
        them.
    """
    order = sorted(range(len(rows)), key=lambda item: rows[item])
    plan = _Plan(order, [len(rows[item]) for item in order], forward_cost)
    for index in range(len(order) - 1):
        one, other = order[index], order[index + 1]
        most = min(limits[one], limits[other])
        plan.add(index, _common(rows[one][:most], rows[other][:most]))
    return plan.finish()


class _Plan:
    def __init__(self, order: Sequence[int], lengths: Sequence[int], forward_cost: int) -> None:
        self._order = order
        self._forward_cost = forward_cost
        self._ends = [0]
        for length in lengths:
            self._ends.append(self._ends[-1] + length)
        self._open = [_Span(0, 0)]

    def add(self, index: int, link: int) -> None:
        """Takes the link between the rows at ``index`` and after it, in order."""
        begun = _Span(link, index)
        while self._open[-1].level > link:
            closed = self._closed(self._open.pop(), index)
            begun.first = closed.first
            if self._open[-1].level >= link:
                self._open[-1].absorb(closed)
            else:
                begun.absorb(closed)
        if self._open[-1].level < link:
            self._open.append(begun)

    def finish(self) -> list[PrefixGroup]:
        self.add(len(self._order) - 1, 0)
        return self._open[0].groups

    def _closed(self, span: _Span, last: int) -> _Span:
        """``span`` as one group or as its parts, whichever saves more."""
        count = last - span.first + 1
        apart = self._ends[last + 1] - self._ends[span.first]
        saved = span.level * (count - 1) - 2 * self._forward_cost
        if saved >= 0.25 * apart and saved > span.saved:
            whole = PrefixGroup(tuple(self._order[span.first : last + 1]), span.level)
            return _Span(span.level, span.first, saved, [whole])
        return span


def plan_packs(
    group: PrefixGroup,
    rests: Sequence[int],
    needed: Sequence[int],
    *,
    most_tokens: int,
    most_needed: int,
) -> list[tuple[int, ...]]:
    """Splits a group into what is computed after its prefix at once.

    Args:
        group: The rows.
        rests: Tokens of each row of the planned sequence after the prefix.
        needed: Positions of each whose logits are needed.
        most_tokens: Most tokens of a pack of several rows.
        most_needed: Most needed positions of a pack of several rows.
    """
    packs: list[tuple[int, ...]] = []
    tokens = positions = 0
    for item in group.items:
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

"""Which prompts are batched: tokenized lengths in, batches out. Knows neither torch nor text.

Longest first, and a batch is closed as soon as one more row would break the token budget or the
cap on padding. Sorting makes rows of one batch nearly equal, so that little is computed for
padding; longest first makes the largest allocation the first one. Bigger is not better on a CPU,
where a large batch only falls out of the cache. Rows that are packed end to end have no padding and
know no cap; they are sorted all the same, so that equal ones are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from forwardcache.errors import InvalidInputError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
        items: Positions in the planned sequence, longest row first.
        longest: Tokens of the longest row.
        tokens: Tokens of all rows, without padding.
        packed: Whether the rows run end to end instead of padded to the longest.
    """

    items: tuple[int, ...]
    longest: int
    tokens: int
    packed: bool = False

    @property
    def positions(self) -> int:
        """Positions that are computed: rows x longest, or the tokens if they are packed."""
        return self.tokens if self.packed else len(self.items) * self.longest

    @property
    def padding(self) -> float:
        """Share of the computed positions that is padding, 0 to 1."""
        return 1.0 - self.tokens / self.positions


def distinct(items: Iterable[Hashable]) -> tuple[list[int], list[int]]:
    """Drops duplicates.

    Returns:
        The positions of the first of each kind, and for every item the index of its kind in them.
    """
    kinds: dict[Hashable, int] = {}
    firsts: list[int] = []
    kind_of = []
    for position, item in enumerate(items):
        kind = kinds.setdefault(item, len(firsts))
        if kind == len(firsts):
            firsts.append(position)
        kind_of.append(kind)
    return firsts, kind_of


def in_slabs(
    items: Iterable[Item], size_of: Callable[[Item], int], most: int
) -> Iterator[list[Item]]:
    """Items in groups, in their order, that come to at most ``most`` or are of one item.

    Args:
        items: The items.
        size_of: What one counts.
        most: What a group of several may count.
    """
    slab: list[Item] = []
    held = 0
    for item in items:
        size = size_of(item)
        if slab and held + size > most:
            yield slab
            slab, held = [], 0
        slab.append(item)
        held += size
    if slab:
        yield slab


def plan_batches(
    lengths: Sequence[int],
    *,
    token_budget: int,
    max_padding: float = 0.10,
    max_rows: int | None = None,
    packed: bool = False,
) -> list[Batch]:
    """Splits rows into batches.

    Args:
        lengths: Tokens of each row, at least 1.
        token_budget: Most positions of a batch of several rows; a longer row is a batch of its own.
        max_padding: Largest share of padding in a batch, 0 (equal lengths only) to 1.
        max_rows: Most rows of a batch; None for no limit.
        packed: Whether the rows of a batch run end to end, without padding.

    Returns:
        Batches that hold every row once, longest row first; equal lengths keep their order.

    Raises:
        InvalidInputError: a limit or a length is out of range.
    """
    check_limits(token_budget, max_padding)
    if any(length < 1 for length in lengths):
        raise InvalidInputError(f"a row needs at least one token, got {min(lengths)}")
    order = sorted(range(len(lengths)), key=lambda item: -lengths[item])
    batches: list[Batch] = []
    for item in order:
        grown = _grown(batches[-1], item, lengths[item]) if batches else None
        if grown and _allowed(grown, token_budget, max_padding, max_rows):
            batches[-1] = grown
        else:
            batches.append(Batch((item,), lengths[item], lengths[item], packed))
    return batches


def check_limits(token_budget: int, max_padding: float, max_logit_bytes: int = 1) -> None:
    """Refuses limits that no plan can keep.

    Raises:
        InvalidInputError: ``token_budget`` or ``max_logit_bytes`` is not an integer of at least 1,
            or ``max_padding`` is outside 0 to 1.
    """
    for name, limit in {"token_budget": token_budget, "max_logit_bytes": max_logit_bytes}.items():
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidInputError(f"{name} must be an integer of at least 1, got {limit!r}")
    if not 0.0 <= max_padding <= 1.0:
        raise InvalidInputError(f"max_padding must be between 0 and 1, got {max_padding}")


def _grown(batch: Batch, item: int, length: int) -> Batch:
    return Batch((*batch.items, item), batch.longest, batch.tokens + length, batch.packed)


def _allowed(batch: Batch, token_budget: int, max_padding: float, max_rows: int | None) -> bool:
    return (
        batch.positions <= token_budget
        and batch.positions - batch.tokens <= max_padding * batch.positions
        and (max_rows is None or len(batch.items) <= max_rows)
    )

"""Prompts that a mix-up shows in: long ones, and such that share most of their ids.

All are made of the ids 1, 2 and 3, so that they are in any vocabulary that has the first.
"""

from __future__ import annotations

Prompt = tuple[int, ...]

__all__ = ["LONGEST", "SHORTEST", "Prompt", "family", "heads"]

LONGEST = 40
"""Longer than what engines take for a key: 4, 8, 16 or 32 tokens."""

SHORTEST = 12
"""Less can't differ in its first ids, its last ids and between."""

_HEAD = 4
_TAIL = 4
_SHORT = (1, 2, 3)


def family(count: int, length: int) -> list[Prompt]:
    """``count`` prompts, the first of which differ the most tellingly; the eighth is the first.

    Args:
        count: How many.
        length: Ids of the longest.
    """
    base = _mixed(length)
    changed = [_changed(base, place) for place in (length - 1, length // 2, 0, _HEAD)]
    members = [base, *changed, base[: -length // 4], _SHORT]
    return [members[index % len(members)] for index in range(count)]


def heads(length: int) -> list[tuple[Prompt, Prompt]]:
    """Pairs that share all but their last ids; from pair to pair the first id differs."""
    base = _mixed(length)
    starts = [(first, *base[1:]) for first in _SHORT]
    return [(start, (*start[:-_TAIL], *map(_next, start[-_TAIL:]))) for start in starts]


def _mixed(length: int) -> Prompt:
    """Ids without a period that a short window could take for the whole."""
    return tuple(1 + (place * place // 3 + place // 7) % 3 for place in range(length))


def _changed(prompt: Prompt, place: int) -> Prompt:
    return (*prompt[:place], _next(prompt[place]), *prompt[place + 1 :])


def _next(token: int) -> int:
    return token % 3 + 1

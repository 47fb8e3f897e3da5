"""Phrases that several verdicts share, so that each is said in one way."""

from __future__ import annotations


def too_few(texts: int, needed: int) -> str:
    """That something takes more distinct texts than there are.

    Args:
        texts: How many there are.
        needed: How many it takes.
    """
    are = "is" if texts == 1 else "are"
    return f"that takes {needed:,} distinct texts, and there {are} {texts:,}"


def no_number(left_out: int, positions: int) -> str:
    """How many positions are in no figure, for holding a value that is no number.

    Args:
        left_out: How many.
        positions: Of how many that count.
    """
    hold = "holds" if left_out == 1 else "hold"
    return f"{left_out:,} of {positions:,} positions {hold} a value that is no number: in no figure"

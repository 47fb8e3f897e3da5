"""The most moved positions as a page shows them: tokens with a colour, all of them printable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from forwardcache.statistics.result import MovedPosition, TopToken, ViewDifference

_LEVELS = ("p75", "p90", "p95", "p99", "p999")
"""Percentiles of the view's KL above which a token has the next colour."""

_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True, slots=True)
class Moved:
    """One position.

    Attributes:
        position: As it was found.
        before: The context before the predicted token: runs of one colour, 0 for none.
        token: The predicted token, with its colour.
        after: The context behind it.
        tops: By model: its most likely tokens with their probabilities.
    """

    position: MovedPosition
    before: Sequence[tuple[int, str]]
    token: tuple[int, str]
    after: Sequence[tuple[int, str]]
    tops: Sequence[tuple[str, Sequence[tuple[str, str]]]]


def moved_of(view: ViewDifference, reference: str, most: int) -> list[Moved]:
    """The most moved positions of a view.

    Args:
        view: What was found of it.
        reference: The reference's name.
        most: How many at most.
    """
    bounds = [bound for bound, _ in thresholds(view)]
    return [_moved(one, bounds, reference, view.view) for one in view.moved[:most]]


def thresholds(view: ViewDifference) -> list[tuple[float, str]]:
    """The KL in nats above which a token has each colour, faintest first, with its percentile.

    Args:
        view: What was found of it.
    """
    kl = view.summary.figures.kl
    words = ("75 %", "90 %", "95 %", "99 %", "99.9 %")
    return [(getattr(kl, name), word) for name, word in zip(_LEVELS, words, strict=True)]


def _moved(one: MovedPosition, bounds: Sequence[float], reference: str, view: str) -> Moved:
    levels = [0 if kl is None else sum(kl > bound for bound in bounds) for kl in one.context_kl]
    tokens = list(zip(levels, map(printable, one.context), strict=True))
    return Moved(
        position=one,
        before=_in_runs(tokens[: one.at]),
        token=tokens[one.at],
        after=_in_runs(tokens[one.at + 1 :]),
        tops=[(reference, _listed(one.reference_top)), (view, _listed(one.view_top))],
    )


def _in_runs(tokens: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Tokens without a colour joined: they need no mark-up of their own."""
    found: list[tuple[int, str]] = []
    for level, text in tokens:
        if found and level == 0 == found[-1][0]:
            found[-1] = (0, found[-1][1] + text)
        else:
            found.append((level, text))
    return found


def _listed(tops: Sequence[TopToken]) -> list[tuple[str, str]]:
    return [(printable(one.text), f"{one.probability:.1%}") for one in tops]


def printable(text: str) -> str:
    """``text`` with signs for line ends and tabs, and what can't be printed escaped.

    Args:
        text: Any text, also with half a surrogate pair, which no file takes.
    """
    return "".join(
        _SIGNS.get(one) or (one if one.isprintable() else json.dumps(one)[1:-1]) for one in text
    )

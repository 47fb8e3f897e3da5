"""Which run made what a page shows: the facts kept with it, as the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What a page can't hold; they stand in the file of the facts.
_LONGEST = 2000


def fact_rows(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The facts one a row, names of inner ones behind those of outer ones.

    Args:
        facts: JSON values, as in ``OUT.meta.json``.

    Returns:
        Rows of ``fact`` and ``value``, both texts; what is null or empty is left out.
    """
    return [{"fact": name, "value": value} for name, value in _rows("", facts)]


def _rows(before: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        whole = f"{before} {name}".strip()
        if isinstance(value, Mapping):
            yield from _rows(whole, value)
        elif value not in (None, [], ""):
            yield whole, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return _cut(", ".join(map(_text, value)))
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

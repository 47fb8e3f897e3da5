"""What an adapter may be called: its name stands in views, after a colon."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from forwardcache.errors import InvalidInputError

_FORBIDDEN = ":/=,"
# What a view is called, on a command line or in a trace.
_VIEW = re.compile(r"base|ft|matched|(scaled|null)(_.*)?")
_LONGEST = 60


def check_names(names: Sequence[str], *, what: str = "adapter") -> None:
    """Refuses what can't be an adapter's name in a view, and names that stand twice.

    Args:
        names: All of them.
        what: What they are names of.

    Raises:
        InvalidInputError: naming it, and what is allowed.
    """
    for name in names:
        told = f"{what} name {name[:_LONGEST]!r}"
        if not name or name != name.strip() or not name.isprintable():
            raise InvalidInputError(f"{told}: give printable characters, without spaces around")
        if used := [each for each in _FORBIDDEN if each in name]:
            raise InvalidInputError(f"{told}: it may not hold {used[0]!r}")
        if _VIEW.fullmatch(name):
            raise InvalidInputError(f"{told}: a view is called so")
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise InvalidInputError(f"two {what}s are called {name[:_LONGEST]!r}")


def adapter_of(name: str | None, names: Sequence[str], *, view: str) -> str | None:
    """The adapter that a view is of.

    Args:
        name: What the view says; None for the only one.
        names: Those that there are; empty where the only one has no name.
        view: The view, for the error.

    Raises:
        InvalidInputError: none is called so, or the view doesn't say which of several it is of.
    """
    told = ", ".join(names)
    if name is None and len(names) > 1:
        raise InvalidInputError(
            f"view {view} is of which adapter? There are {told}; its name goes behind a colon"
        )
    if name is not None and name not in names:
        there = f"there are {told}" if names else "the only one, if any, has no name"
        raise InvalidInputError(f"view {view}: no adapter is called {name[:_LONGEST]!r}; {there}")
    return names[0] if name is None and names else name

"""Whether CPython numbers the changes of dictionaries, so that one number tells of all of them.

Up to 3.12 each change gives a dictionary a number that none had before (PEP 509). In 3.13
attributes are written past it, and 3.14 has none: there, and without a GIL, a look compares what is
in the dictionaries.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from forwardcache._core import _dict_tag

# Writes of attributes are specialised after some.
_TIMES = 40


@cache
def are_dicts_numbered() -> bool:
    """Whether every kind of change gives a dictionary a number of its own in this interpreter."""
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 12):
        return False
    seen = list(_numbers())
    return all(earlier < later for earlier, later in pairwise(seen))


class _Object:
    def __init__(self) -> None:
        self.one: object = 1
        self.two: object = 2


def _numbers() -> Iterator[int]:
    """A dictionary's number after each of its changes, for several dictionaries."""
    for _ in range(2):
        made = _Object()
        for _ in range(_TIMES):
            for change in (_write, _write_by_name, _write_past, _add, _delete):
                change(made)
                yield _dict_tag(vars(made))
    for held in (vars(_Object()), {}, OrderedDict[Any, Any]()):
        for step in _steps(held):
            step()
            yield _dict_tag(held)


def _write(made: Any) -> None:
    made.one = object()


def _write_by_name(made: Any) -> None:
    setattr(made, "two", object())  # noqa: B010


def _write_past(made: Any) -> None:
    object.__setattr__(made, "one", object())


def _add(made: Any) -> None:
    made.added = object()


def _delete(made: Any) -> None:
    del made.added


def _steps(held: dict[Any, Any]) -> tuple[Callable[[], Any], ...]:
    """Changes, to be made one after the other."""
    return (
        lambda: held.__setitem__("key", object()),
        lambda: held.__setitem__(5, object()),
        lambda: held.update(key=object()),
        lambda: held.__ior__({"key": object()}),
        lambda: held.__delitem__("key"),
        lambda: held.setdefault("key", object()),
        lambda: held.pop("key"),
        lambda: held.setdefault("key", object()),
        held.popitem,
        held.clear,
    )


__all__ = ["are_dicts_numbered"]

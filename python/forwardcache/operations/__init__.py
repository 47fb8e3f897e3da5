"""The scoring operations, one file each: its class is called ``OPERATION`` there.

A file put here is an operation of the backend, the store, ``score``, the report and Ray.

Reading order: ``next_token_dist`` with ``next_token_kl`` and ``logprobs_at``,
``top_k_at_each_position``, ``rolling_logprob``, ``logprob_of``, ``continuation_logprob``,
``hidden_states`` (what a head computes the others from).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Hashable
from functools import cache
from importlib import import_module
from typing import Any, cast

from forwardcache.errors import InvalidInputError
from forwardcache.operation import Operation


@cache
def names() -> tuple[str, ...]:
    """The name of every operation."""
    return tuple(sorted(each.name for each in pkgutil.iter_modules(__path__)))


@cache
def operation(name: str) -> type[Operation]:
    """The operation of that name.

    Raises:
        InvalidInputError: there is none.
    """
    if name not in names():
        raise InvalidInputError(f"unknown op {name!r}; there are {', '.join(names())}")
    found: type[Operation] = import_module(f"{__name__}.{name}").OPERATION
    if found.name != name:
        raise TypeError(f"operations/{name}.py holds an operation that is called {found.name!r}")
    return found


@cache
def of_prompts() -> tuple[str, ...]:
    """The names of those that a file of prompts has everything for."""
    return tuple(name for name in names() if operation(name).needs_only_prompts)


def of_kind(kind: str) -> Operation | None:
    """One of the operations whose stored values have that name; None without one."""
    return next((each for each in _plain() if each.kind == kind), None)


def of_value(value: Any) -> Operation:
    """One of the operations whose values are of the type of ``value``.

    Raises:
        TypeError: there is none.
    """
    found = _of_type(cast("Hashable", type(value)))
    if found is None:
        raise TypeError(f"no operation has a value of type {type(value).__name__}")
    return found


@cache
def _of_type(type_: Hashable) -> Operation | None:
    return next((each for each in _plain() if each.holds(type_)), None)


@cache
def _plain() -> tuple[Operation, ...]:
    """Every operation with its options as they are by default."""
    return tuple(operation(name).of() for name in names())

"""Finds what a user names as ``pkg.mod:factory``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from forwardcache.errors import InvalidInputError

__all__ = ["FactorySpecError", "locate"]


class FactorySpecError(InvalidInputError):
    """Nothing that can be called is found under the name; the message says how far it led."""


def locate(spec: str) -> Callable[[], Any]:
    """The factory named ``pkg.mod:factory``; modules of the current folder are found too.

    Args:
        spec: Module, colon, and a name in it; the name may have dots.

    Raises:
        FactorySpecError: the module can't be imported, or the name leads to nothing callable.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise FactorySpecError(f"{spec!r} is not of the form pkg.mod:factory")
    module = _imported(module_name)
    try:
        factory = reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise FactorySpecError(f"{spec!r} names nothing: {error}") from error
    if not callable(factory):
        raise FactorySpecError(f"{spec!r} is a {type(factory).__name__}, which can't be called")
    return factory


def _imported(module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(module_name)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        raise FactorySpecError(f"{module_name!r} can't be imported: {why}") from error

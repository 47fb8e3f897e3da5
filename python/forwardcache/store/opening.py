"""A store by its address: which kind of store it names, and which files that writes."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.store.base import Store
from forwardcache.store.tiers import Tiers

_SHARED = ("redis://", "rediss://", "valkey://", "valkeys://")
# Between an address and a shared one after it; any other comma is part of a path.
_NEXT_TIER = re.compile(r",(?=(?:rediss?|valkeys?)://)")

# What a URL has after its path.
_OPTIONS = re.compile(r"\?\w+=[^/]*$")


def open_store(where: str | Path, **options: Any) -> Store:
    """A store by its address.

    Args:
        where: A path (SQLite), or a URL of Redis or Valkey; or several, the nearest first, with
            commas between (``results.db,redis://host``): see ``Tiers``.
        **options: Those of the store; none for several, whose URLs hold theirs.

    Raises:
        InvalidInputError: it is an address of another kind, or the store can't be kept there.
    """
    addresses = _NEXT_TIER.split(str(where))
    if len(addresses) > 1:
        return Tiers([open_store(address) for address in addresses], **options)
    shared = str(where).startswith(_SHARED)
    if not shared:
        _check_path(str(where))
    # Imported here: a shared store needs an extra.
    module, name = ("redis", "RedisStore") if shared else ("sqlite", "SQLiteStore")
    kind = getattr(import_module(f"forwardcache.store.{module}"), name)
    store: Store = kind(str(where) if shared else Path(where), **options)
    return store


def _check_path(where: str) -> None:
    """Refuses what looks like an address, or a file with options, and would become a file's name.

    Raises:
        InvalidInputError: it does, and there is no such file.
    """
    scheme, mark, _ = where.partition("://")
    is_half = any(where.lower().startswith(f"{each[:-3]}:") for each in (*_SHARED, "file://"))
    if mark or (is_half and not Path(where).exists()):
        known = ", ".join(_SHARED)
        scheme = scheme if mark else f"{where.partition(':')[0]}:"
        raise InvalidInputError(
            f"a store is a path or an address that begins with one of {known}, not {scheme}{mark}"
        )
    if _OPTIONS.search(where) and not Path(where).exists():
        raise InvalidInputError(f"a store in a file takes no options, got {where!r}")


def absolute_address(where: str | Path) -> str:
    """``where`` for processes that work in other folders: its file by an absolute path.

    Args:
        where: As in ``open_store``.
    """
    addresses = _NEXT_TIER.split(str(where))
    return ",".join(
        each if each.startswith(_SHARED) else os.path.abspath(each) for each in addresses
    )


def files_of(where: str | Path) -> list[Path]:
    """The files that a store writes on this machine.

    Args:
        where: As in ``open_store``.

    Returns:
        Their paths, whether they are there or not; none for a store on another machine.
    """
    addresses = [each for each in _NEXT_TIER.split(str(where)) if not each.startswith(_SHARED)]
    return [Path(f"{address}{ending}") for address in addresses for ending in ("", "-wal", "-shm")]

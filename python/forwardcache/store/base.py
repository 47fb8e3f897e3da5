"""What a store is: sealed values by key, kept beyond the process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from forwardcache.errors import InvalidInputError

_SHARED = ("redis://", "rediss://", "valkey://", "valkeys://")
# Between a place and a shared one behind it; any other comma is part of a path.
_NEXT_TIER = re.compile(r",(?=(?:rediss?|valkeys?)://)")

# What an address has behind its path.
_OPTIONS = re.compile(r"\?\w+=[^/]*$")


@dataclass(frozen=True, slots=True)
class Record:
    """A sealed value on its way into a store.

    Attributes:
        key: 32 bytes, SHA-256 over everything that decides the value.
        blob: The sealed value (``seal``), which has a checksum and the key in it.
        model: Short fingerprint of model and weights, hex, for ``info`` and ``prune``.
        view: The view's id in the trace.
        op: The operation.
    """

    key: bytes
    blob: bytes
    model: str
    view: str
    op: str


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What is in a store.

    Attributes:
        entries: Number of values.
        nbytes: Bytes of their blobs.
        by_kind: Entries and bytes of each (model, view, op).
        errors: Calls on this object that failed.
        damaged: Values that this object met and could not use.
    """

    entries: int
    nbytes: int
    by_kind: Mapping[tuple[str, str, str], tuple[int, int]]
    errors: int
    damaged: int


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What a full read found.

    Attributes:
        ok: Values that are whole.
        damaged: Values that were not, and are dropped.
    """

    ok: int
    damaged: int


class Store(Protocol):
    """Sealed values by key. Nothing here raises for damage or an outage: it is counted."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The blobs of those keys that are there.

        Args:
            keys: 32 bytes each.

        Returns:
            The sealed values, by key.
        """

    def put_many(self, records: Sequence[Record]) -> int:
        """Writes values over what was there.

        Args:
            records: Sealed values.

        Returns:
            How many were kept.
        """

    def info(self) -> StoreInfo:
        """What is there."""

    def verify(self) -> StoreCheck:
        """Reads everything, and drops what is damaged."""

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        model: str | None = None,
        view: str | None = None,
        max_bytes: int | None = None,
    ) -> int:
        """Drops values by age, model and view, then the oldest beyond a size.

        Args:
            older_than_s: Only those older than so many seconds.
            model: Only those of this model's fingerprint, hex.
            view: Only those of this view's id.
            max_bytes: Then also the oldest of all, until no more bytes than this are left.

        Returns:
            How many were dropped.
        """

    def close(self) -> None:
        """Lets go of files and connections."""


def open_store(where: str | Path, **options: Any) -> Store:
    """A store by its place.

    Args:
        where: A path (SQLite), or a URL of Redis or Valkey; or several, the nearest first, with
            commas between (``results.db,redis://host``): see ``Tiers``.
        **options: Those of the store; none for several, whose URLs hold theirs.

    Raises:
        InvalidInputError: it is an address of another kind, or the store can't be kept there.
    """
    places = _NEXT_TIER.split(str(where))
    if len(places) > 1:
        from forwardcache.store.tiers import Tiers

        return Tiers([open_store(place) for place in places], **options)
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


def absolute_place(where: str | Path) -> str:
    """``where`` for processes that work in other folders: its file by an absolute path.

    Args:
        where: As in ``open_store``.
    """
    places = _NEXT_TIER.split(str(where))
    return ",".join(each if each.startswith(_SHARED) else os.path.abspath(each) for each in places)


def files_of(where: str | Path) -> list[Path]:
    """The files that a store writes on this machine.

    Args:
        where: As in ``open_store``.

    Returns:
        Their paths, whether they are there or not; none for a store on another machine.
    """
    places = [each for each in _NEXT_TIER.split(str(where)) if not each.startswith(_SHARED)]
    return [Path(f"{place}{ending}") for place in places for ending in ("", "-wal", "-shm")]

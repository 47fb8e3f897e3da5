"""What a store is: sealed values by key, kept beyond the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


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

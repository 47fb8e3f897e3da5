"""Several stores as one: the nearest is asked first, and gets what a farther one had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forwardcache.errors import InvalidInputError
from forwardcache.store.base import Record, Store, StoreCheck, StoreInfo


class Tiers:
    """Stores from the nearest to the farthest: ``Tiers([on_disk, shared])``.

    A key is looked up in one after the other; what is found goes into all that were asked before,
    so the next look-up ends sooner. What is put goes into all.

    Args:
        stores: At least one. Closed with this.

    Raises:
        InvalidInputError: there is no store.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        if not stores:
            raise InvalidInputError("tiers need at least one store")
        self.stores = tuple(stores)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The sealed values of those keys that are in any of the stores.

        Args:
            keys: 32 bytes each.
        """
        return {record.key: record.blob for record in self.get_records(keys)}

    def get_records(self, keys: Sequence[bytes]) -> list[Record]:
        """Those keys that are in any of the stores, with what was written with them.

        Args:
            keys: 32 bytes each.
        """
        found: list[Record] = []
        missing = list(dict.fromkeys(keys))
        for index, store in enumerate(self.stores):
            if not missing:
                break
            records = _records(store, missing)
            for nearer in self.stores[:index] if records else ():
                nearer.put_many(records)
            found += records
            there = {record.key for record in records}
            missing = [key for key in missing if key not in there]
        return found

    def put_many(self, records: Sequence[Record]) -> int:
        """Writes into every store.

        Args:
            records: Sealed values.

        Returns:
            How many at least one of them kept for sure.
        """
        return max(store.put_many(records) for store in self.stores)

    def info(self) -> StoreInfo:
        """The nearest store's entries; errors and damage of all."""
        infos = [store.info() for store in self.stores]
        return replace(
            infos[0],
            errors=sum(info.errors for info in infos),
            damaged=sum(info.damaged for info in infos),
        )

    def verify(self) -> StoreCheck:
        """Checks every store; values that are in several count in each."""
        checks = [store.verify() for store in self.stores]
        return StoreCheck(
            ok=sum(check.ok for check in checks), damaged=sum(check.damaged for check in checks)
        )

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        model: str | None = None,
        view: str | None = None,
        max_bytes: int | None = None,
    ) -> int:
        """Drops values from every store, as that store's ``prune`` does.

        Args:
            older_than_s: Only those older than so many seconds.
            model: Only those of this model's fingerprint, hex.
            view: Only those of this view's id.
            max_bytes: Most bytes left in each store.

        Returns:
            How many were dropped, each counted where it was.
        """
        return sum(
            store.prune(older_than_s=older_than_s, model=model, view=view, max_bytes=max_bytes)
            for store in self.stores
        )

    @property
    def last_error(self) -> str | None:
        """What the last call that failed said, of the nearest store that knows."""
        errors = (getattr(store, "last_error", None) for store in self.stores)
        return next((error for error in errors if error is not None), None)

    def close(self) -> None:
        """Closes every store."""
        for store in self.stores:
            store.close()


def _records(store: Store, keys: Sequence[bytes]) -> list[Record]:
    """What ``store`` has of ``keys``; one that gives values only leaves the names empty."""
    get_records = getattr(store, "get_records", None)
    if get_records is not None:
        return list(get_records(keys))
    return [Record(key, blob, "", "", "") for key, blob in store.get_many(keys).items()]

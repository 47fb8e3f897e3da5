"""What a scorer has to do with a store: keys that last, sealed values, and figures of both."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forwardcache.hf.spec import ViewSpec, tagged
from forwardcache.operation import Operation
from forwardcache.store import Record, Store
from forwardcache.store.seal import seal, unseal

_log = logging.getLogger("forwardcache")

_SHORT = 16


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """What a backend and its store did for each other.

    Attributes:
        hits: Values taken from the store; each is a cache hit too, since no forward was run for it.
        misses: Values that were asked of it and not there, the damaged ones among them.
        damaged: Values that came back and could not be used.
        kept: Values that it kept.
        not_kept: Values that it was given and did not keep (disk full, outage).
        verified: Hits, of memory or store, that were computed again.
        mismatches: Those that were not the same within the dtype's tolerance, and were replaced.
    """

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    kept: int = 0
    not_kept: int = 0
    verified: int = 0
    mismatches: int = 0


@dataclass(frozen=True, slots=True)
class KeySpace:
    """Where one call's values stand in every store.

    Attributes:
        model: Bytes that the model's state has in every process.
        view: The view that is run.
        options: How text becomes tokens, as the key has it.
        op: The operation.
    """

    model: bytes
    view: ViewSpec
    options: bytes
    op: Operation
    _known: dict[Any, bytes] = field(default_factory=dict, repr=False, compare=False)

    def keys(self, items: Iterable[Hashable]) -> dict[Any, bytes]:
        """The store's key of each item, which is a str or a tuple of them."""
        known = self._known
        items = list(items)
        # What is asked for and not there is put later in the same call.
        missing = [item for item in items if item not in known]
        if missing:
            # The number grows where the same item has other tokens than before, so another value.
            prefix = hashlib.sha256(b"forwardcache.store\x02")
            fields = self.model, tagged(self.view.key_fields), self.options, self.op.name.encode()
            prefix.update(tagged([*fields, str(self.op.top_k).encode()]))
            known.update({item: _continued(prefix, item) for item in missing})
        return {item: known[item] for item in items}

    def record(self, key: bytes, value: Any) -> Record:
        """A value on its way into a store."""
        model = self.model.hex()[:_SHORT]
        blob = seal(key, value, self.op)
        return Record(key, blob, model, self.view.view_id, self.op.name)


class ValueStore:
    """A store as a scorer sees it: values in, values out.

    Args:
        store: What is read and written.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._told: set[str] = set()
        self.hits = self.misses = self.damaged = self.kept = self.not_kept = 0

    def tell_unused(self, reason: str | None) -> None:
        """Says, once for each reason, that nothing is asked of the store or given to it.

        Args:
            reason: Why the model has no key that other processes would find.
        """
        reason = reason or "the model can't be described"
        if reason not in self._told:
            self._told.add(reason)
            _log.warning("the store is not used, neither read nor written: %s", reason)

    def fetch(self, key_space: KeySpace, items: Iterable[Hashable]) -> dict[Any, Any]:
        """Those items' values that are in the store and whole."""
        keys = key_space.keys(items)
        blobs = self.store.get_many(list(keys.values()))
        found: dict[Any, Any] = {}
        for item, key in keys.items():
            blob = blobs.get(key)
            value = None if blob is None else unseal(key, blob)
            if value is not None:
                found[item] = value
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        self.damaged += len(blobs) - len(found)
        return found

    def keep(self, key_space: KeySpace, values: Mapping[Any, Any]) -> None:
        """Gives values to the store, by item; they last from the end of this call."""
        keys = key_space.keys(values)
        records: Sequence[Record] = [key_space.record(keys[item], values[item]) for item in values]
        kept = self.store.put_many(records) if records else 0
        self.kept += kept
        self.not_kept += len(records) - kept


def _continued(prefix: Any, item: Hashable) -> bytes:
    fields = item if isinstance(item, tuple) else (item,)
    digest = prefix.copy()
    digest.update(tagged(str(field).encode("utf-8", "surrogatepass") for field in fields))
    key: bytes = digest.digest()
    return key

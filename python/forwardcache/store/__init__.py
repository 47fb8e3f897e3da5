"""Values that last: under the in-memory cache, sealed, on disk or shared between machines.

Reading order: ``base`` (what a store is), ``seal`` with ``arrays`` (a value as bytes that can't be
taken for another one), ``sqlite`` with ``schema``, ``statements``, ``checkpoint``, ``file``,
``failure``, ``scan``, ``rebuild`` and ``filesystem`` (the store on disk), ``redis`` with
``address``, ``header``, ``servers``, ``slots``, ``server``, ``redis_calls``, ``link``,
``request_worker`` and ``breaker`` (the shared store), ``tiers`` (several as one), ``notes`` (what a
file has beside its values), ``opening`` (which of them an address names).
"""

from forwardcache.store.base import Record, Store, StoreCheck, StoreInfo
from forwardcache.store.opening import absolute_address, files_of, open_store

__all__ = [
    "Record",
    "Store",
    "StoreCheck",
    "StoreInfo",
    "absolute_address",
    "files_of",
    "open_store",
]

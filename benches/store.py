"""Figures of the store on disk: ``python -m benches.store``.

The second process against the first, what writing costs, a hit in batches beside others' stores,
and look-ups among a million values. Every figure is printed with its conditions.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import forwardcache
from forwardcache.scoring import TokenDist
from forwardcache.store import Record
from forwardcache.store.seal import seal, unseal
from forwardcache.store.sqlite import SQLiteStore

ASSETS = Path(forwardcache.__file__).parent / "demo"
BATCH = 256
TOP_K = 256


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def key_of(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def value_of(number: int) -> TokenDist:
    chance = np.random.default_rng(number)
    logprobs = -np.sort(chance.exponential(4.0, TOP_K)).astype(np.float32)
    return TokenDist(chance.permutation(50_000)[:TOP_K], logprobs, 50_000, -3.0)


def runs(folder: Path, prompts: int) -> None:
    """Scoring the demo model with no store, with an empty one, and with a full one."""
    from forwardcache.hf import HFBackend

    def once(store: Path | None) -> float:
        texts = [
            f"Prompt number {n}: the interpreter of the language reads" for n in range(prompts)
        ]
        options: dict[str, Any] = {"device": "cpu", "store": store}
        with HFBackend.load(ASSETS / "model", ASSETS / "adapter", **options) as backend:
            backend.next_token_dist_batch(["warm up"])
            return timed(
                lambda: [
                    backend.next_token_dist_batch(texts[n : n + BATCH])
                    for n in range(0, prompts, BATCH)
                ]
            )

    without, first, second = [], [], []
    for number in range(5):
        path = folder / f"run{number}.db"
        without.append(once(None))
        first.append(once(path))
        second.append(once(path))
    none, one, two = map(statistics.median, (without, first, second))
    print(f"demo model, {prompts} prompts, top_k {TOP_K}, medians of 5 in one process:")
    print(f"  without a store {none:.3f} s, with an empty one {one:.3f} s, full {two:.3f} s")
    print(f"  writing costs {100 * (one / none - 1):+.1f} %, the second run is {one / two:.1f} x")
    print(f"  a hit of the backend takes {two / prompts * 1e6:.0f} us a prompt")


def hits(folder: Path, entries: int = 4096) -> None:
    """Microseconds a value, read and turned back into a ``TokenDist``, in batches."""
    values = {key_of(n): value_of(n) for n in range(entries)}
    keys = list(values)
    print(f"a hit, {entries} values of {TOP_K} tokens, batches of {BATCH}, median of 5:")
    for name, write, read in contenders(folder):
        write(values)

        def all_read(read: Callable[[list[Any]], list[Any]] = read) -> None:
            for start in range(0, entries, BATCH):
                found = read(keys[start : start + BATCH])
                assert found[0] is not None
                assert found[-1] is not None

        seconds = statistics.median(timed(all_read) for _ in range(5))
        print(f"  {name:24} {seconds / entries * 1e6:7.1f} us")


Contender = tuple[str, Callable[[dict[bytes, Any]], Any], Callable[[list[Any]], list[Any]]]


def contenders(folder: Path) -> Iterator[Contender]:
    store = SQLiteStore(folder / "hits.db")

    def put(values: dict[bytes, Any]) -> None:
        store.put_many([Record(k, seal(k, v), "ab", "base", "op") for k, v in values.items()])

    def get(keys: list[bytes]) -> list[Any]:
        found = store.get_many(keys)
        return [unseal(key, found[key]) for key in keys]

    yield "forwardcache", put, get
    store.close()
    if find_spec("diskcache"):
        with import_module("diskcache").Cache(str(folder / "diskcache")) as cache:

            def put_all(values: dict[bytes, Any]) -> None:
                with cache.transact():
                    for key, value in values.items():
                        cache[key] = (value.token_ids, value.logprobs, value.tail_logprob)

            yield "diskcache", put_all, lambda keys: [cache[key] for key in keys]
    if find_spec("lm_eval") and find_spec("sqlitedict"):
        # What CachingLM keeps its answers in, opened as it opens it.
        with import_module("sqlitedict").SqliteDict(
            str(folder / "caching_lm.db"), autocommit=True
        ) as kept:

            def put_each(values: dict[bytes, Any]) -> None:
                for key, value in values.items():
                    kept[key.hex()] = (value.token_ids, value.logprobs, value.tail_logprob)
                kept.commit()

            yield "CachingLM's SqliteDict", put_each, lambda keys: [kept[k.hex()] for k in keys]


def size(folder: Path, entries: int) -> None:
    """Opening, and look-ups of random keys in batches, among ``entries`` values."""
    path = folder / f"size{entries}.db"
    store = SQLiteStore(path, max_bytes=None)
    body = os.urandom(256)
    for start in range(0, entries, 10_000):
        numbers = range(start, min(start + 10_000, entries))
        store.put_many([Record(key_of(n), body, "ab", "base", "op") for n in numbers])
    store.close()
    opening = timed(lambda: SQLiteStore(path).close())
    store = SQLiteStore(path)
    chance = np.random.default_rng(1)
    starts = chance.integers(0, entries - BATCH, 200)
    orders: dict[str, list[Any]] = {
        "as put": [range(start, start + BATCH) for start in starts],
        "at random": [chance.integers(0, entries, BATCH) for _ in range(200)],
    }
    told = []
    for name, chosen in orders.items():
        batches = [[key_of(n) for n in numbers] for numbers in chosen]
        took = [timed(partial(store.get_many, some)) for some in batches]
        told.append(f"{name} {statistics.median(took) / BATCH * 1e6:.2f}")
    store.close()
    print(f"  {entries:9,} values: opening {opening * 1e3:.1f} ms, us a key {', '.join(told)}")


def main() -> None:
    which = sys.argv[1:] or ["runs", "hits", "size"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "runs" in which:
            runs(folder, 1024)
        if "hits" in which:
            hits(folder)
        if "size" in which:
            print(
                f"look-ups in batches of {BATCH} random keys, blobs of 256 bytes, medians of 200:"
            )
            for entries in (1_000, 1_000_000):
                size(folder, entries)


if __name__ == "__main__":
    main()

"""Figures of the store on disk: ``python -m benches.store``.

The second process against the first, what writing costs, a hit in batches beside others' stores,
and look-ups among a million values. Every figure is printed with its conditions.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

# A bar for each batch would be most of what CachingLM takes; read when tqdm is imported.
os.environ["TQDM_DISABLE"] = "1"

import diskcache
import numpy as np
from lm_eval.api.model import CachingLM

import forwardcache
from benches.machine import description
from benches.sections import Line, publish, table
from forwardcache.hf import HFBackend
from forwardcache.scoring import TokenDist
from forwardcache.store import Record
from forwardcache.store.seal import seal, unseal
from forwardcache.store.sqlite import SQLiteStore

TITLE = "## The store on disk"
PACKAGES = ["diskcache", "lm-eval", "sqlitedict", "safetensors", "torch", "transformers"]
ASSETS = Path(forwardcache.__file__).parent / "demo"
BATCH = 256
RUN_BATCH = 64
TOP_K = 256
PROMPTS = 1024

NOTES = """\
What writing took and takes of a run, microseconds of thread CPU time a value of 3.4 KB: a call's
keys 4 and 2; the look whether it is finite 6 and 3; the seal 11 and 10, of which SHA-256 is 4; the
put 19 and 16, of which the commit's pages in the log are 8; the log into the file at the end 10 and
4, since the rest goes there on a thread while the run goes on. Of the put a trigger for each new
value was 3, and memory for pages that is used for the first time 3. Tried: pages of 8, 16 and 32 KB
(a put of 26 to 31), the log into the file every 256 pages by the writer's own connection (26),
several values a statement (21), an index less (18).

A run asks for values in the order in which they were put. For keys at random a page of the file is
read for each value once the file is larger than SQLite's memory for pages (64 MB). Where the time
of 10^6 at random goes, by perf: SQLite 38 %, most of which waits for memory (twenty steps in an
index of 20 MB, the table of its own pages), the kernel's reads 27 %, Python 23 %; of 10^3 it is 24,
7 and 40 %. Tried, us a key at 10^3 and at 10^6 at random, and in the order as put:

| design | at random | as put |
|---|---|---|
| unique index of whole keys | 2.2, 7.3 | 2.4, 3.8 |
| the key's first 8 bytes as the row's number | 1.7, 4.9 | 1.8, 4.5 |
| index of the first 8 bytes (kept) | 1.9, 5.6 | 2.0, 2.7 |
| the same, file mapped into memory | 1.9, 3.5 | 2.0, 2.4 |
| the same, 1 GB of memory for pages | 1.9, 5.9 | 2.1, 2.8 |

And on a machine with other work, in turn, tenth percentiles of thread CPU time, at 10^3 and 10^6 at
random:

| design | at random |
|---|---|
| index of the first 8 bytes (kept) | 2.1, 9.0 |
| the same, pages of 1 KB | 2.2, 10.4 |
| a table from the first 8 bytes, as its row's number, to the value's row, joined | 2.0, 9.4 |
| first the numbers of rows from the index, then the rows in their order | 2.4, 8.9 |
| the same, the rows on another connection with 4 MB for pages | 2.4, 8.0 |
| the same as kept, file mapped into memory | 2.1, 5.0 |
| the same as kept, 32 MB for pages (in another run, where as kept was 2.0, 8.0) | 2.0, 8.2 |

What is left is waiting for memory: a page of 4 KB that nobody has used for long is copied from the
kernel for each value. No order of tables changes that, and smaller pages cost true values more.

A mapped file would bring the random order within the bound on some machines. It is not used: where
the file is cut while a page of it is read, or the disk can't give that page, the process is killed
(seen within seconds of cutting it), and without a mapping the value is a counted miss.
"""


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def on_thread(work: Callable[[], Any]) -> float:
    """Seconds of this thread's CPU that ``work`` takes."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def key_of(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def value_of(number: int) -> TokenDist:
    chance = np.random.default_rng(number)
    logprobs = -np.sort(chance.exponential(4.0, TOP_K)).astype(np.float32)
    return TokenDist(chance.permutation(50_000)[:TOP_K], logprobs, 50_000, -3.0)


@dataclass(frozen=True)
class Runs:
    """One scoring of all prompts: with no store, with an empty one, and with a full one.

    Attributes:
        without: Seconds of CPU of each batch with no store.
        first: The same, of each batch that is put into an empty one, with what is done beside it.
        closing: Seconds of CPU of closing that one.
        first_s: Seconds of the run that writes, without the other's batches.
        second_s: Seconds of the run that finds everything.
        second: Seconds of CPU of that run.
        in_calls: Seconds of CPU in the calls of the writing run's store, the seals among them.
    """

    without: list[float]
    first: list[float]
    closing: float
    first_s: float
    second_s: float
    second: float
    in_calls: float


def on_cpu(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of CPU that ``work`` takes in all threads, and seconds."""
    began, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began, time.perf_counter() - clock


class Calls:
    """CPU time of the thread that asks a backend's store and gives it values.

    Args:
        backend: Its store's calls are timed from now on.
    """

    def __init__(self, backend: HFBackend) -> None:
        self.seconds = 0.0
        values = backend._scorer.value_store
        for name in ("fetch", "keep"):
            setattr(values, name, partial(self._timed, getattr(values, name)))

    def _timed(self, call: Callable[..., Any], *given: Any) -> Any:
        began = time.thread_time()
        try:
            return call(*given)
        finally:
            self.seconds += time.thread_time() - began


def runs(folder: Path, rounds: int) -> list[Runs]:
    """The demo model, a new backend for each run; two of them take turns, batch by batch."""
    texts = [f"Prompt number {n}: the interpreter of the language reads" for n in range(PROMPTS)]
    batches = [texts[start : start + RUN_BATCH] for start in range(0, PROMPTS, RUN_BATCH)]
    return [run(folder / f"run{number}.db", batches, number) for number in range(rounds)]


def run(path: Path, batches: list[list[str]], number: int) -> Runs:
    def loaded(store: SQLiteStore | None) -> HFBackend:
        options: dict[str, Any] = {"device": "cpu", "store": store}
        backend = HFBackend.load(ASSETS / "model", ASSETS / "adapter", **options)
        backend.next_token_dist_batch(["warm up"])
        return backend

    store = SQLiteStore(path)
    plain, writing = loaded(None), loaded(store)

    def written(some: list[str]) -> None:
        writing.next_token_dist_batch(some)
        # What a thread does for the store belongs to this batch, not to the next one.
        store._checkpoints.wait()

    calls = Calls(writing)
    took: dict[str, list[tuple[float, float]]] = {"without": [], "first": []}
    for at, some in enumerate(batches):
        turns: list[tuple[str, Callable[[list[str]], Any]]] = [
            ("without", plain.next_token_dist_batch),
            ("first", written),
        ]
        for name, work in turns if (at + number) % 2 else turns[::-1]:
            took[name].append(on_cpu(partial(work, some)))
    writing.close()
    closing = on_cpu(store.close)
    store = SQLiteStore(path)
    reading = loaded(store)

    def read() -> None:
        for some in batches:
            reading.next_token_dist_batch(some)
        reading.close()
        store.close()

    second = on_cpu(read)
    return Runs(
        without=[cpu for cpu, _ in took["without"]],
        first=[cpu for cpu, _ in took["first"]],
        closing=closing[0],
        first_s=sum(seconds for _, seconds in took["first"]) + closing[1],
        second_s=second[1],
        second=second[0],
        in_calls=calls.seconds + closing[0],
    )


def run_rows(done: list[Runs]) -> list[str]:
    pairs = [pair for each in done for pair in zip(each.first, each.without, strict=True)]
    closing = statistics.median(each.closing / sum(each.without) for each in done)
    cost = statistics.median(first / without for first, without in pairs) - 1 + closing
    faster = statistics.median(each.first_s / each.second_s for each in done)
    without = statistics.median(each for _, each in pairs) / RUN_BATCH
    calls = statistics.median(each.in_calls for each in done) / PROMPTS
    a_hit = statistics.median(each.second for each in done) / PROMPTS
    return [
        f"CPU of a prompt without a store: {without * 1e6:,.0f} us. Writing it adds the median of "
        f"{len(pairs)} pairs of batches, {cost * without * 1e6:.0f} us, closing included; the "
        f"calls of the store and closing alone take {calls * 1e6:.0f} us, "
        f"{100 * calls / without:.2f} %.",
        "",
        *table(
            [
                Line("what writing costs a run", "3", "", 100 * cost, "8.8 %", " %"),
                Line("the second run is faster", "30", "", faster, "33 x", " x", at_least=True),
                Line("a hit through the backend", "100", "", a_hit * 1e6, "28 us", " us"),
            ]
        ),
    ]


def hit_rows(folder: Path, rounds: int, entries: int = 4096) -> list[str]:
    """Microseconds of CPU a value, read and turned back into what was put, in batches."""
    values = {key_of(n): value_of(n) for n in range(entries)}
    keys = list(values)
    rows = []
    for name, write, read in contenders(folder):
        write(values)

        def all_read(read: Callable[[list[Any]], list[Any]] = read) -> None:
            for start in range(0, entries, BATCH):
                found = read(keys[start : start + BATCH])
                assert len(found) == BATCH
                assert None not in (found[0], found[-1])

        seconds = statistics.median(on_thread(all_read) for _ in range(rounds))
        rows.append(f"| {name} | {seconds / entries * 1e6:.1f} |")
    return rows


Contender = tuple[str, Callable[[dict[bytes, Any]], Any], Callable[[list[Any]], list[Any]]]


def contenders(folder: Path) -> Iterator[Contender]:
    store = SQLiteStore(folder / "hits.db")

    def put(values: dict[bytes, Any]) -> None:
        store.put_many([Record(k, seal(k, v), "ab", "base", "op") for k, v in values.items()])

    def get(keys: list[bytes]) -> list[Any]:
        found = store.get_many(keys)
        return [unseal(key, found[key]) for key in keys]

    yield "forwardcache: checksum, key and arrays checked", put, get
    store.close()
    with diskcache.Cache(str(folder / "diskcache")) as cache:

        def put_all(values: dict[bytes, Any]) -> None:
            with cache.transact():
                for key, value in values.items():
                    cache[key] = fields_of(value)

        yield "diskcache: unpickled", put_all, lambda keys: [cache[key] for key in keys]
    caching = CachingLM(Answers(), str(folder / "caching_lm.db"))

    def ask(values: dict[bytes, Any]) -> None:
        Answers.known = {key.hex(): fields_of(value) for key, value in values.items()}
        caching.loglikelihood([request_of(key) for key in values])
        Answers.known = {}

    def asked(keys: list[bytes]) -> list[Any]:
        found: list[Any] = caching.loglikelihood([request_of(key) for key in keys])
        return found

    yield "lm-eval's CachingLM: unpickled", ask, asked
    caching.dbdict.close()


class Answers:
    """A model of lm-eval, of which ``CachingLM`` has the answers after the first time."""

    known: ClassVar[dict[str, Any]] = {}

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        return [self.known[request.args[0]] for request in requests]

    def set_cache_hook(self, _: Any) -> None:
        pass


def request_of(key: bytes) -> SimpleNamespace:
    return SimpleNamespace(args=(key.hex(), ""))


def fields_of(value: TokenDist) -> tuple[Any, ...]:
    return value.token_ids, value.logprobs, value.tail_logprob


@dataclass(frozen=True)
class Size:
    """Seconds of opening, and microseconds a key for each order of asking."""

    opening: float
    a_key: dict[str, float]


def size(folder: Path, entries: int) -> Size:
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
    a_key = {}
    for name, chosen in orders.items():
        batches = [[key_of(n) for n in numbers] for numbers in chosen]
        took = [on_thread(partial(store.get_many, some)) for some in batches]
        a_key[name] = statistics.median(took) / BATCH * 1e6
    store.close()
    return Size(opening, a_key)


def size_rows(folder: Path) -> list[str]:
    few, many = size(folder, 1_000), size(folder, 1_000_000)
    lines = [Line("opening at 10^6", "1,000", "", many.opening * 1e3, "1.3 ms", " ms")]
    for name, today in (("as put", "1.6 x"), ("at random", "3.2 x")):
        times = many.a_key[name] / few.a_key[name]
        lines.append(Line(f"keys {name} at 10^6, times at 10^3", "2", "", times, today, " x"))
    took = ", ".join(
        f"{name} {few.a_key[name]:.2f} and {a_key:.2f}" for name, a_key in many.a_key.items()
    )
    return [f"Microseconds of CPU a key at 10^3 and at 10^6: {took}.", "", *table(lines)]


def section(rounds: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = run_rows(runs(folder, rounds)), hit_rows(folder, rounds), size_rows(folder)
    running, hits, sizes = parts
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.store", PACKAGES),
            f"- How: the demo model on the CPU, `next_token_dist` with top_k {TOP_K} in batches of "
            f"{RUN_BATCH}; each run is a new backend with an empty memory in one process, timed "
            "after loading, its closing included. Two backends, one of them with an empty store, "
            "take turns batch by batch, and what writing costs is CPU time of all threads: in "
            "whole runs one after the other it drowned in the machine's own noise. "
            f"{rounds} rounds.",
            "",
            "### A run",
            "",
            *running,
            "",
            f"### A value of {TOP_K} tokens from the disk, in batches of {BATCH}",
            "",
            "| store | us of CPU |",
            "|---|---|",
            *hits,
            "",
            f"### Look-ups among many, {BATCH} keys at once, values of 256 bytes",
            "",
            *sizes,
            "",
            NOTES,
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=9)

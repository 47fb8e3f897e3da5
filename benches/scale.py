"""Measures what carries values between machines: ``python -m benches.scale``.

The question: what do a shared store and the one process that hands out prompts and writes rows take
in addition to the forwards, so that it can be said what limits a run on many GPUs first? The model
is the demo's; its forwards are not measured.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis

import forwardcache
from benches.machine import description
from benches.sections import publish
from forwardcache.distributed.team import LOCAL, Team
from forwardcache.distributed.wire import Part, answer, packed, packed_options
from forwardcache.distributed.worker import Worker
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import encoded
from forwardcache.jobs.views import parse_views
from forwardcache.scoring import TokenDist
from forwardcache.store.base import Record
from forwardcache.store.redis import RedisStore
from forwardcache.store.seal import Value, seal, unseal
from tests.store.servers import RedisServer

TITLE = "## Many machines: rows, Ray and a shared store"
PACKAGES = ["ray", "redis", "numpy", "safetensors"]
ASSETS = Path(forwardcache.__file__).parent / "demo"
JOBS = (("next_token_dist", 256), ("next_token_dist", 16), ("logprob_of", 1))
VALUES: dict[str, Value] = {
    "distribution, top 256": TokenDist(np.arange(256), np.zeros(256, np.float32), 50_000, -1.0),
    "log-probability": -1.0,
}
RECORDS, BATCH = 20_000, 256
TASKS, TASK_BYTES, RESULT_BYTES = 300, 50_000, 1_500_000


@dataclass(frozen=True)
class Rows:
    """What a row takes: bytes on the wire, seconds to read it there and to write it."""

    nbytes: float
    read_s: float
    write_s: float

    @property
    def a_second(self) -> float:
        return 1.0 / (self.read_s + self.write_s)


class Sender:
    """A worker that sends as much as one with a model would."""

    def __init__(self, options: bytes) -> None:
        del options

    def load(self) -> bytes:
        return packed({"value": {"pid": os.getpid()}})

    def send(self, task: bytes) -> bytes:
        return bytes(RESULT_BYTES)

    def close(self) -> bytes:
        return packed({"value": 0})


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of ``rounds``."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def rows_of(worker: Worker, op: str, top_k: int, rounds: int) -> Rows:
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines()[:BATCH]
    texts = [json.loads(line)["prompt"] for line in lines]
    prompts = tuple(Prompt(at, text, " is") for at, text in enumerate(texts))
    items = [[text, " is"] if op == "logprob_of" else text for text in texts]
    lengths = tuple(answer(worker.lengths(packed([op, items]))))
    views = parse_views("base,ft", has_adapter=True)
    part = Part(prompts, lengths, op, views, top_k, max(top_k, 1024))
    result = worker.rows(part.packed())
    rows = answer(result)["rows"]
    count = len(rows)
    read = seconds(lambda: answer(result), rounds) / count
    return Rows(len(result) / count, read, seconds(lambda: encoded(rows), rounds) / count)


def tasks_a_second() -> float:
    """Tasks that a local cluster of two workers takes and gives back."""
    with Team(2, lambda _: b"", address=LOCAL, on_gpu=False, kind=Sender) as team:
        # Both are there once they have had their share.
        list(team.run("send", 20, lambda _: b""))
        task = bytes(TASK_BYTES)
        began = time.perf_counter()
        done = sum(1 for _ in team.run("send", TASKS, lambda _: task))
        return done / (time.perf_counter() - began)


@contextmanager
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        started = RedisServer(Path(folder))
        try:
            yield started
        finally:
            started.kill()


def shared_store_row(name: str, value: Value, rounds: int) -> str:
    blob, key = seal(bytes(32), value), bytes(32)
    sealing = seconds(lambda: [seal(key, value) for _ in range(1000)], rounds) / 1000
    unsealing = seconds(lambda: [unseal(key, blob) for _ in range(1000)], rounds) / 1000
    records = [Record(os.urandom(32), blob, "abcd1234", "base", "op") for _ in range(RECORDS)]
    with server() as one:
        client: Any = redis.Redis(port=one.port)
        empty = client.info("memory")["used_memory"]
        store = RedisStore(one.url)
        kept, putting = timed_batches(store.put_many, records)
        keys = [record.key for record in records]
        found, getting = timed_batches(lambda some: len(store.get_many(some)), keys)
        nbytes = (client.info("memory")["used_memory"] - empty) / kept
    if (kept, found) != (RECORDS, RECORDS):
        raise AssertionError(f"{kept} of {RECORDS} values were kept and {found} found")
    return (
        f"| {name} | {len(blob):,} | {nbytes:,.0f} | {sealing * 1e6:.0f} | {unsealing * 1e6:.0f} "
        f"| {putting * 1e6:.1f} | {getting * 1e6:.1f} |"
    )


def timed_batches(call: Callable[[Any], int], items: Sequence[Any]) -> tuple[int, float]:
    """What ``call`` counted over batches of ``items``, and seconds an item."""
    began = time.perf_counter()
    count = sum(call(items[at : at + BATCH]) for at in range(0, len(items), BATCH))
    return count, (time.perf_counter() - began) / len(items)


def section(rounds: int) -> str:
    worker = Worker(
        packed_options(
            ModelOptions(
                str(ASSETS / "model"),
                (NamedAdapter(None, str(ASSETS / "adapter")),),
                device="cpu",
            )
        )
    )
    answer(worker.load())
    measured = {(op, top_k): rows_of(worker, op, top_k, rounds) for op, top_k in JOBS}
    rows = [
        f"| {op}{f', top {top_k}' if op == 'next_token_dist' else ''} | {each.nbytes:,.0f} "
        f"| {each.read_s * 1e6:.1f} | {each.write_s * 1e6:.1f} | {each.a_second:,.0f} |"
        for (op, top_k), each in measured.items()
    ]
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.scale", PACKAGES),
            f"- How: rows of {BATCH} prompts in two views, medians of {rounds}. Redis on loopback, "
            f"{RECORDS:,} values in batches of {BATCH}, one connection; its memory by its own "
            "`INFO`. All shares the machine's cores. A GPU and a network were not measured.",
            f"- Ray, two workers on this machine, {TASK_BYTES:,} bytes there and {RESULT_BYTES:,} "
            f"back: {tasks_a_second():,.0f} tasks a second.",
            "",
            "### A row, in the process that writes them",
            "",
            "| row | bytes from the worker | reading, us | writing, us | rows a second |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "### A value in Redis",
            "",
            "| value | sealed, bytes | in Redis, bytes | sealing, us | unsealing, us | put, us "
            "| get, us |",
            "|---|---|---|---|---|---|---|",
            *(shared_store_row(name, value, rounds) for name, value in VALUES.items()),
            "",
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=9)

"""A worker that has nothing to do, so that what is measured is its driver (``benches.driver``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from forwardcache.distributed.parts.receipts import Receipt, packed_numbers
from forwardcache.distributed.wire import packed_value
from forwardcache.jobs.views import parse_views

VIEWS = parse_views("base,ft", has_adapter=True)
A_CHUNK = 256
TOKENS = 8192 // A_CHUNK


class Idle:
    """A worker that has done everything before."""

    def __init__(self, options: bytes) -> None:
        chance = np.random.default_rng(0)
        texts = chance.integers(2**63, size=A_CHUNK, dtype=np.int64).astype(np.uint64)
        self._figures: dict[str, Any] = {
            "texts": packed_numbers(texts),
            "differences": {"ft": packed_numbers(chance.random(A_CHUNK))},
        }

    def load(self) -> bytes:
        return packed_value({"vocab_size": 32_000})

    def line_lengths(self, task: bytes) -> bytes:
        return packed_value([TOKENS] * (task.count(b"\n") - 1))

    def part(self, task: bytes) -> bytes:
        shared, own, _ = task.split(b"\n", 2)
        name, lengths = json.loads(own)
        rows = len(lengths) * len(VIEWS)
        file = f"parts/{name[:2]}/{name}-{name[:16]}.parquet"
        # The driver looks whether it is there.
        part = Path(json.loads(shared)["out"], file)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        return Receipt(name, file, name, 10**6, rows, **self._figures).packed()

    def close(self) -> bytes:
        return packed_value(0)

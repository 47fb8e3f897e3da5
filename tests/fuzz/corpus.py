"""Where the fuzzers begin: small inputs of each target that are as they should be."""

from __future__ import annotations

import json

import numpy as np

from forwardcache.scoring import ContinuationLogprob, RollingLogprob, TokenDist
from forwardcache.store.seal import Value, seal
from tests.fuzz.targets import KEY

IDS, LOGPROBS = np.array([5, 2, 9]), np.array([-0.1, -2.5, -7.0], np.float32)
VALUES: list[Value] = [
    -1.5,
    TokenDist(IDS, LOGPROBS, 320, -3.25),
    RollingLogprob(IDS, LOGPROBS[1:], 3, -9.5),
    ContinuationLogprob(-4.25, 7, True),
]
EVENT = {
    **{"ts": 1.5, "probe": None, "view_id": "base", "prompt_hash": "a9993e364706", "top_k": 8},
    **{"op": "next_token_dist", "wall_ms": 0.25, "hit": False},
}
FURTHER = {"run": "00ff", "thread": 1, "seq": 3, "key": "12", "batch": 2, "batch_size": 3}
LOSS = {**EVENT, "op": "trace_lost", "lost": 4}


def of(target: str) -> list[bytes]:
    """The first inputs of a target."""
    if target == "reader":
        lines = [json.dumps(each).encode() for each in (EVENT, {**EVENT, **FURTHER}, LOSS)]
        return [*lines, b"\n".join(lines) + b"\n", lines[0] + b"\n" + lines[1][:40], b"\n\n{}\n"]
    if target == "store":
        # What follows the checksum and the key, which the target adds; and whole ones.
        sealed = [seal(KEY, value) for value in VALUES]
        return [*(each[68:] for each in sealed), sealed[0]]
    return [
        b"\x01\x00\x00\x05\x03\x00",
        b"\x02\x00\x00\x1d\x03\x33",
        b"\x05\x06\x00\x80\x00\x01",
        b"\x4d\x0c\x21\x25\xff\x00\x07\x04\x00",
    ]

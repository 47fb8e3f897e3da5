"""Claims: bytes in a store that somebody else sealed are no value, take no more memory than
themselves, and are not kept.

A seal is no signature: whoever may write to a store can seal anything, and a value of the right
form under the right key is believed.
"""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from forwardcache.scoring import TokenDist
from forwardcache.store import arrays
from forwardcache.store.seal import seal, unseal

KEY = bytes(range(32))
DIST = TokenDist(np.array([3, 1]), np.array([-0.5, -1.0], np.float32), 8, -1.5)


def sealed(header: bytes, data: bytes = b"") -> bytes:
    """What an attacker seals: whole, for the key, and of a header of its choice."""
    body = KEY + len(header).to_bytes(8, "little") + header + data
    return seal(KEY, DIST)[:4] + hashlib.sha256(body).digest() + body


def entry(dtype: str, shape: list[Any], offsets: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(name: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({name: fields}).encode()


@pytest.mark.parametrize(
    "blob",
    [
        sealed(one("float.value", entry("F64", [1 << 60], [0, 8])), bytes(8)),
        sealed(one("float.value", entry("F64", [1 << 60], [0, 1 << 63])), bytes(8)),
        sealed(one("float.value", entry("F64", [1 << 62, 4, 0], [0, 0]))),
        sealed(one("float.value", entry("F64", [-1], [0, 8])), bytes(8)),
        sealed(one("float.value", entry("F64", [1], [-8, 0])), bytes(8)),
        sealed(one("float.value", entry("F64", [0], [0, 0]))),
        sealed(one("dist.token_ids", entry("I64", [1 << 40], [0, 1 << 43]))),
        sealed(b'{"a":' * 700),
        sealed(b"[" * 4000),
        sealed(b"{" * 100_000),
        sealed(b" " * (8 << 20)),
        seal(KEY, DIST)[:36] + KEY + b"\xff" * 8,
    ],
)
def test_a_claim_of_more_than_there_is_is_no_value(blob: bytes) -> None:
    tracemalloc.start()
    try:
        assert unseal(KEY, blob) is None
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * len(blob) + (1 << 20)


def test_long_headers_are_not_kept() -> None:
    arrays._places.cache_clear()
    fields = entry("F64", [1], [0, 8])
    for i in range(20):
        names = {f"float.value{'x' * 5000}{i}": fields}
        assert unseal(KEY, sealed(json.dumps(names).encode(), bytes(8))) is None
    assert arrays._places.cache_info().currsize == 0


def test_a_value_of_ours_still_comes_back() -> None:
    assert unseal(KEY, seal(KEY, DIST)) == DIST


def test_no_value_of_another_key_is_believed() -> None:
    assert unseal(bytes(32), seal(KEY, DIST)) is None

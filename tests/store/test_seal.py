"""Claims: what is sealed comes back equal, for its own key only; any changed, missing or added byte
makes it no value; bytes that others wrote, even with a right checksum, are no value either.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import ContinuationLogprob, RollingLogprob, TokenDist
from forwardcache.store.seal import seal, unseal

KEY, OTHER = bytes(range(32)), bytes(32)
IDS, LOGPROBS = np.array([5, 2, 9]), np.array([-0.1, -2.5, -7.0], np.float32)

VALUES: list[Any] = [
    -1.5,
    0.0,
    -math.inf,
    math.nan,
    5e-324,
    TokenDist(IDS, LOGPROBS, 320, -3.25),
    TokenDist(IDS, LOGPROBS, 3, None),
    TokenDist(IDS[:0], LOGPROBS[:0], 320, 0.0),
    TokenDist(IDS, np.array([math.nan, 0.0, -math.inf], np.float32), 320, -math.inf),
    RollingLogprob(IDS, LOGPROBS[1:], 3, -9.5),
    RollingLogprob(IDS[:0], LOGPROBS[:0], 0, 0.0),
    ContinuationLogprob(-4.25, 7, True),
    ContinuationLogprob(-0.0, 1, False),
]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return isinstance(other, float) and np.float64(one).tobytes() == np.float64(other).tobytes()
    return bool(one == other) and type(one) is type(other)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_comes_back_equal(value: Any) -> None:
    assert same(unseal(KEY, seal(KEY, value)), value)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_is_nobody_elses(value: Any) -> None:
    assert unseal(OTHER, seal(KEY, value)) is None
    assert unseal(KEY[:31], seal(KEY, value)) is None
    assert unseal(b"", seal(KEY, value)) is None


def test_every_flipped_bit_is_found() -> None:
    blob = seal(KEY, VALUES[5])
    for at in range(8 * len(blob)):
        damaged = bytearray(blob)
        damaged[at // 8] ^= 1 << at % 8
        assert unseal(KEY, bytes(damaged)) is None


def test_every_length_but_its_own_is_found() -> None:
    blob = seal(KEY, VALUES[9])
    assert all(unseal(KEY, blob[:end]) is None for end in range(len(blob)))
    assert unseal(KEY, blob + b"\0") is None


def test_any_bytes_are_no_value() -> None:
    numbers = random.Random(3)
    for _ in range(2000):
        blob = numbers.randbytes(numbers.randrange(300))
        assert unseal(KEY, blob) is None
        assert unseal(KEY, seal(KEY, 1.0)[:4] + blob) is None


INT, FLOAT = np.array([1]), np.array([1.0])
FORGED: list[bytes] = [
    b"",
    b"x" * 50,
    b"\xff" * 50,
    (2**63).to_bytes(8, "little") + b"{}",
    pickle.dumps(1.0),
    save({}),
    save({"float.value": INT}),
    save({"float.value": np.array([1.0, 2.0])}),
    save({"float.value": np.array([[1.0]])}),
    save({"other.value": FLOAT}),
    save({"value": FLOAT}),
    save({"float.value": FLOAT, "dist.vocab_size": INT}),
    save({"dist.token_ids": IDS, "dist.logprobs": LOGPROBS, "dist.vocab_size": INT}),
    save(
        {
            "dist.token_ids": IDS,
            "dist.logprobs": LOGPROBS[:2],
            "dist.vocab_size": INT,
            "dist.tail_logprob": FLOAT,
        }
    ),
    save({"rolling.token_ids": IDS.astype(np.int32), "rolling.logprobs": LOGPROBS[1:]}),
]


@pytest.mark.parametrize("forged", FORGED, ids=range(len(FORGED)))
def test_what_others_seal_is_no_value(forged: bytes) -> None:
    body = KEY + forged
    blob = seal(KEY, 1.0)[:4] + hashlib.sha256(body).digest() + body
    assert unseal(KEY, blob) is None


def test_what_can_not_be_sealed_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="32 bytes, got 3"):
        seal(b"key", 1.0)
    with pytest.raises(TypeError, match="str"):
        seal(KEY, "text")

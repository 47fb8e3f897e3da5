"""A value as bytes that say of themselves whether they are whole, and whose they are.

Magic and version, a SHA-256 over what follows, the key, then the value's arrays and numbers in the
format of safetensors. Bytes that are damaged, of another version, or sealed for another key are no
value. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import ContinuationLogprob, RollingLogprob, TokenDist
from forwardcache.store.arrays import Arrays, packed, unpacked

Value = TokenDist | RollingLogprob | ContinuationLogprob | float

_MAGIC = b"fcs\x01"
_KEY_BYTES = _DIGEST_BYTES = 32
_BODY = len(_MAGIC) + _DIGEST_BYTES


def seal(key: bytes, value: Value) -> bytes:
    """``value`` as bytes, for ``key``.

    Args:
        key: 32 bytes.
        value: What a scoring operation gave.

    Raises:
        InvalidInputError: the key has another length.
        TypeError: the value is of another type.
    """
    if len(key) != _KEY_BYTES:
        raise InvalidInputError(f"a key has {_KEY_BYTES} bytes, got {len(key)}")
    body = key + packed(_arrays(value))
    return _MAGIC + hashlib.sha256(body).digest() + body


def unseal(key: bytes, blob: bytes) -> Value | None:
    """The value in ``blob``; None if it is damaged, of another version, or of another key."""
    if len(key) != _KEY_BYTES or not blob.startswith(_MAGIC) or not blob.startswith(key, _BODY):
        return None
    if hashlib.sha256(memoryview(blob)[_BODY:]).digest() != blob[len(_MAGIC) : _BODY]:
        return None
    try:
        return _value(unpacked(blob, _BODY + _KEY_BYTES))
    except (SafetensorError, InvalidInputError, LookupError, TypeError, ValueError):
        # Whole, and yet no value of ours: somebody else wrote it.
        return None


def _arrays(value: Value) -> Arrays:
    if isinstance(value, float):
        return {"float.value": _floats(value)}
    if isinstance(value, TokenDist):
        tail = [] if value.tail_logprob is None else [value.tail_logprob]
        return {
            "dist.token_ids": value.token_ids,
            "dist.logprobs": value.logprobs,
            "dist.vocab_size": _ints(value.vocab_size),
            "dist.tail_logprob": _floats(*tail),
        }
    if isinstance(value, RollingLogprob):
        return {
            "rolling.token_ids": value.token_ids,
            "rolling.logprobs": value.logprobs,
            "rolling.num_tokens": _ints(value.num_tokens),
            "rolling.total_logprob": _floats(value.total_logprob),
        }
    if isinstance(value, ContinuationLogprob):
        return {
            "continuation.logprob": _floats(value.logprob),
            "continuation.num_tokens": _ints(value.num_tokens),
            "continuation.is_greedy": _ints(int(value.is_greedy)),
        }
    raise TypeError(f"can't seal a {type(value).__name__}")


def _value(arrays: Arrays) -> Value:
    kind, fields = _kind_of(tuple(arrays))
    return _KINDS[kind](dict(zip(fields, arrays.values(), strict=True)))


@lru_cache
def _kind_of(names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The kind that all names begin with, and the names of the fields."""
    [kind] = {name.partition(".")[0] for name in names}
    return kind, tuple(name.partition(".")[2] for name in names)


def _dist(fields: Arrays) -> TokenDist:
    tail = fields["tail_logprob"]
    tail_logprob = _number(tail) if len(tail) else None
    size = _integer(fields["vocab_size"])
    ids, logprobs = _typed(fields["token_ids"], np.int64), _typed(fields["logprobs"], np.float32)
    return TokenDist(ids, logprobs, size, tail_logprob)


def _rolling(fields: Arrays) -> RollingLogprob:
    ids, logprobs = _typed(fields["token_ids"], np.int64), _typed(fields["logprobs"], np.float32)
    total = _number(fields["total_logprob"])
    return RollingLogprob(ids, logprobs, _integer(fields["num_tokens"]), total)


def _continuation(fields: Arrays) -> ContinuationLogprob:
    tokens, greedy = _integer(fields["num_tokens"]), _integer(fields["is_greedy"])
    return ContinuationLogprob(_number(fields["logprob"]), tokens, bool(greedy))


_KINDS: dict[str, Callable[[Arrays], Value]] = {
    "float": lambda fields: _number(fields["value"]),
    "dist": _dist,
    "rolling": _rolling,
    "continuation": _continuation,
}


def _floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _number(array: NDArray[Any]) -> float:
    [value] = _typed(array, np.float64).tolist()
    return float(value)


def _integer(array: NDArray[Any]) -> int:
    [value] = _typed(array, np.int64).tolist()
    return int(value)


def _typed(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"expected {dtype.__name__}[n], got {array.dtype}{list(array.shape)}")
    return array

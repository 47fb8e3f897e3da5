"""A value as bytes that say of themselves whether they are whole, and whose they are.

Magic and version, a SHA-256 over what follows, the key, then the value's arrays and numbers in the
format of safetensors. Bytes that are damaged, of another version, or sealed for another key are no
value. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from forwardcache.errors import InvalidInputError
from forwardcache.operation import Operation
from forwardcache.operations import of_kind, of_value
from forwardcache.store.arrays import Arrays, parts, unpacked

Value = Any
"""Of the type of an operation's values; ``seal`` refuses any other."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "int64[]": np.dtype(np.int64),
    "float32[]": np.dtype(np.float32),
    "float64[]": np.dtype(np.float64),
    "uint8[]": np.dtype(np.uint8),
}
_MAGIC = b"fcs\x01"
_KEY_BYTES = _DIGEST_BYTES = 32
_BODY = len(_MAGIC) + _DIGEST_BYTES


def seal(key: bytes, value: Value, op: Operation | None = None) -> bytes:
    """``value`` as bytes, for ``key``.

    Args:
        key: 32 bytes.
        value: What a scoring operation gave.
        op: The operation; None for one that has values of this type.

    Raises:
        InvalidInputError: the key has another length.
        TypeError: the value is of another type.
    """
    if len(key) != _KEY_BYTES:
        raise InvalidInputError(f"a key has {_KEY_BYTES} bytes, got {len(key)}")
    op = op or of_value(value)
    fields = op.pack(value)
    names, dtypes = _form(op, tuple(fields))
    arrays = [
        np.asarray(array, dtype) for array, dtype in zip(fields.values(), dtypes, strict=True)
    ]
    body = b"".join([key, *parts(names, arrays)])
    return b"".join([_MAGIC, hashlib.sha256(body).digest(), body])


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


def _form(
    op: Operation, fields: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[np.dtype[Any], ...]]:
    """The names of the arrays and their dtypes."""
    return _form_of(op.kind, tuple([op.stored[name] for name in fields]), fields)


@lru_cache
def _form_of(
    kind: str, columns: tuple[str, ...], fields: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[np.dtype[Any], ...]]:
    return tuple(f"{kind}.{name}" for name in fields), tuple(_DTYPES[each] for each in columns)


def _value(arrays: Arrays) -> Value:
    op, fields = _kind_of(tuple(arrays))
    values = dict(zip(fields, arrays.values(), strict=True))
    for name, column in op.stored.items():
        _check_type(values[name], _DTYPES[column])
    return op.unpack(values)


@lru_cache
def _kind_of(names: tuple[str, ...]) -> tuple[Operation, tuple[str, ...]]:
    """The operation whose kind all names begin with, and the names of the fields."""
    [kind] = {name.partition(".")[0] for name in names}
    op = of_kind(kind)
    if op is None:
        raise LookupError(kind)
    return op, tuple(name.partition(".")[2] for name in names)


def _check_type(array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"expected {dtype.name}[n], got {array.dtype}{list(array.shape)}")

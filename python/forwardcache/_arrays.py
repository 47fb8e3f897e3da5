"""What the arrays of a frozen value need: nobody can write to them, and they compare by bits."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from forwardcache.errors import InvalidInputError

Scalar = TypeVar("Scalar", bound=np.generic)
Value = TypeVar("Value")


def read_only(values: ArrayLike, dtype: type[Scalar]) -> NDArray[Scalar]:
    """Copy of ``values`` as a 1-D array that nobody can make writable.

    Args:
        values: Anything numpy turns into one dimension, shape [n].
        dtype: Element type of the copy.

    Returns:
        Array of shape [n] over immutable memory.

    Raises:
        InvalidInputError: ``values`` has not exactly one dimension.
    """
    array = np.asarray(values, dtype=dtype)
    if array.ndim != 1:
        raise InvalidInputError(f"expected one dimension, got shape {array.shape}")
    # Over bytes: the owner of an ordinary array may set its WRITEABLE flag again.
    return np.frombuffer(array.tobytes(), dtype=dtype)


def set_array(value: object, field: str, dtype: type[np.generic]) -> None:
    """Replaces a field of a frozen value by a copy that nobody can make writable."""
    object.__setattr__(value, field, read_only(getattr(value, field), dtype))


def weighs_nbytes(value_class: type[Value]) -> type[Value]:
    """Says to the cache that ``nbytes`` is all that a value of just this class keeps."""
    type.__setattr__(value_class, "_weighs_nbytes__", value_class)
    return value_class


def same(left: ArrayLike, right: ArrayLike, dtype: DTypeLike) -> bool:
    """Whether two are equal bit for bit."""
    # So that a value with a NaN equals itself and hashing agrees with equality.
    return np.asarray(left, dtype).tobytes() == np.asarray(right, dtype).tobytes()


def same_tail(left: float | None, right: float | None) -> bool:
    """As ``same``, of numbers that may be missing."""
    if left is None or right is None:
        return left is right
    return same(left, right, np.float64)

"""Named arrays as safetensors bytes, thousands at a time.

Values of one kind and size have the same header, and the library's own parser is slower on it than
all else together. So the library writes and checks each header once; what is in it is kept, and
the arrays are then read from and written to their places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

Arrays = dict[str, NDArray[Any]]

# Headers kept, each some hundred bytes: one for every length of text in rolling scores.
_KEPT = 4096
# A longer one is nobody's of ours, and would be kept as long as the others.
_MOST_HEADER_BYTES = 4096
_LENGTH_BYTES = 8
# The dtypes that values have; the format's numbers are little-endian.
_DTYPES = {
    **{"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")},
    **{"U8": np.dtype("u1")},
}

# Name, dtype, first byte and length.
Place = tuple[str, Any, int, int]


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What ``safetensors.numpy.save`` gives for one-dimensional arrays.

    Args:
        arrays: By name, shape [n] each; float32, float64, int64 or uint8.
    """
    return b"".join(parts(tuple(arrays), [*arrays.values()]))


def parts(names: tuple[str, ...], arrays: Sequence[NDArray[Any]]) -> list[bytes]:
    """What ``packed`` gives, in pieces that follow each other.

    Args:
        names: One for each array.
        arrays: As in ``packed``.
    """
    # Told by letters and lengths: a tuple for each array would be most of what this takes.
    letters = "".join([array.dtype.char for array in arrays])
    header, order = _header(names, letters, *[len(array) for array in arrays])
    return [header, *[arrays[at].tobytes() for at in order]]


def unpacked(blob: bytes, start: int) -> Arrays:
    """The arrays in ``blob`` from ``start`` on, which can't be written to and share its memory.

    Raises:
        SafetensorError: the bytes are not of the format.
        ValueError: an array is not of one dimension, or of a dtype that no value has, or the header
            is longer than one of a value.
    """
    first = start + _LENGTH_BYTES
    length = int.from_bytes(blob[start:first], "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"the header has {length} bytes; at most {_MOST_HEADER_BYTES} are allowed")
    data = first + length
    # Cut to what is there: a damaged length may be any number.
    places = _places(blob[start : min(data, len(blob))], max(len(blob) - data, 0))
    return {
        name: np.frombuffer(blob, dtype, count, data + offset)
        for name, dtype, offset, count in places
    }


@lru_cache(_KEPT)
def _header(names: tuple[str, ...], letters: str, *lengths: int) -> tuple[bytes, tuple[int, ...]]:
    """The bytes before the data, and which array comes when; a letter of numpy's is a dtype."""
    given = zip(names, letters, lengths, strict=True)
    arrays = {name: np.zeros(length, letter) for name, letter, length in given}
    whole = save(arrays)
    header = whole[: len(whole) - sum(array.nbytes for array in arrays.values())]
    entries = json.loads(header[_LENGTH_BYTES:])
    order = sorted(range(len(names)), key=lambda at: entries[names[at]]["data_offsets"])
    return header, tuple(order)


@lru_cache(_KEPT)
def _places(header: bytes, size: int) -> tuple[Place, ...]:
    """Name, dtype, first byte and length of each array behind ``header`` in ``size`` bytes."""
    # Whether the bytes are of the format depends on nothing else than the header and the size.
    load(header + bytes(size))
    entries = json.loads(header[_LENGTH_BYTES:])
    entries.pop("__metadata__", None)
    return tuple(_place(name, entry) for name, entry in entries.items())


def _place(name: str, entry: Any) -> Place:
    dtype, shape, (offset, _) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPES or len(shape) != 1:
        raise ValueError(f"expected {', '.join(_DTYPES)} of one dimension, got {dtype}{shape}")
    return name, _DTYPES[dtype], offset, shape[0]

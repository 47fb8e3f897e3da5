"""The header of a sealed value, in a store that has no columns."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAGIC = b"fcr1"
_FIXED = struct.Struct(">4sQBBB")
_MOST_NAME = 255

MOST_HEADER_BYTES = _FIXED.size + 3 * _MOST_NAME


@dataclass(frozen=True, slots=True)
class Header:
    """When a value was written, and what it belongs to.

    Packed: magic, time, the length of each name, the names in UTF-8.

    Attributes:
        written_ms: Milliseconds since 1970.
        model: As in a ``Record``; at most 255 bytes are kept of each name.
        view: As in a ``Record``.
        op: As in a ``Record``.
    """

    written_ms: int
    model: str
    view: str
    op: str

    def packed(self) -> bytes:
        """The header as bytes."""
        names = [name.encode()[:_MOST_NAME] for name in (self.model, self.view, self.op)]
        return _FIXED.pack(_MAGIC, self.written_ms, *map(len, names)) + b"".join(names)


def split(value: bytes) -> tuple[Header, int] | None:
    """A value's header and where it ends; None if it has no header of ours."""
    if len(value) < _FIXED.size:
        return None
    magic, written_ms, *lengths = _FIXED.unpack_from(value)
    if magic != _MAGIC or len(value) < _FIXED.size + sum(lengths):
        return None
    names, end = [], _FIXED.size
    for length in lengths:
        names.append(value[end : end + length].decode("utf-8", "replace"))
        end += length
    return Header(written_ms, *names), end

"""Receipts: what a worker says of a part that is whole, and what makes it count.

They stand in files of a few, each written whole or not at all, named by the run of the driver that
wrote it. A driver that dies loses those of the last second; their parts are computed again.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.distributed.parts.folder import RECEIPTS, PartsFolder
from forwardcache.distributed.parts.naming import receipts_file

_log = logging.getLogger("forwardcache")

_MOST = 64
_EVERY_S = 1.0
_SEALED = b', "crc32": "%08x"}'
_SEAL_BYTES = len(_SEALED % 0)

Float64s = NDArray[np.float64]
UInt64s = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Receipt:
    """One part that is whole.

    Attributes:
        name: The chunk's, 64 hex digits.
        file: Where its rows stand, in the folder.
        sha256: Digest of that file's bytes, hex.
        size: How many bytes.
        rows: How many rows.
        skipped: Prompts that the model failed on: position in the chunk, own id or None, reason.
        hits: Rows whose values were there already.
        tokens_run: Tokens of the prompts that were not there.
        nonfinite: Values that are not finite.
        stats: What the worker's counters gained.
        fields: In which of the figure's fields ``differences`` are.
        fewest_tokens: The fewest tokens that a divergence was computed over; None where all were.
        most_outside: The largest probability of base outside of them.
        texts: Base64 of uint64[n], little-endian: of each prompt with rows, what it counts as.
        differences: Per view but base: base64 of float64[n], nats, NaN where it is no number.
    """

    name: str
    file: str
    sha256: str
    size: int
    rows: int
    skipped: list[Sequence[Any]] = field(default_factory=list)
    hits: int = 0
    tokens_run: int = 0
    nonfinite: int = 0
    stats: Mapping[str, int | float] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    fewest_tokens: int | None = None
    most_outside: float = 0.0
    texts: str = ""
    differences: Mapping[str, str] = field(default_factory=dict)

    def packed(self) -> bytes:
        """The receipt as one line of JSON, with a checksum."""
        body = json.dumps(asdict(self)).encode("ascii")
        return body[:-1] + _SEALED % zlib.crc32(body)

    @classmethod
    def of(cls, line: bytes) -> Receipt:
        """The receipt that ``packed`` was called on.

        Raises:
            ValueError: the line is cut or damaged.
        """
        body = line[:-_SEAL_BYTES] + b"}"
        if line[-_SEAL_BYTES:] != _SEALED % zlib.crc32(body):
            raise ValueError("a receipt is cut or damaged")
        told = json.loads(body)
        return cls(**{each.name: told[each.name] for each in fields(cls)})


def packed_numbers(values: NDArray[Any]) -> str:
    """Numbers as text, little-endian."""
    return b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def float64s(text: str) -> Float64s:
    """The float64[n] that ``packed_numbers`` was called on."""
    return np.frombuffer(b64decode(text), "<f8")


def uint64s(text: str) -> UInt64s:
    """The uint64[n] that ``packed_numbers`` was called on."""
    return np.frombuffer(b64decode(text), "<u8")


class ReceiptWriter:
    """Writes receipts, some at once, from a thread: an object store takes its time.

    Args:
        folder: Where.
        every_s: The longest that one waits, in seconds.
    """

    def __init__(self, folder: PartsFolder, *, every_s: float = _EVERY_S) -> None:
        self._folder, self._every_s = folder, every_s
        self._run = secrets.token_hex(8)
        self._files = 0
        self._waiting: list[bytes] = []
        self._error: BaseException | None = None
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="receipts", daemon=True)
        self._thread.start()

    def add(self, receipt: bytes) -> None:
        """Take a receipt, as ``Receipt.packed`` gives it.

        Raises:
            InvalidInputError: earlier ones could not be written.
            MachineError: so, and disk or memory gave out.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._waiting.append(receipt)
            if len(self._waiting) in {1, _MOST}:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits, and end.

        Raises:
            InvalidInputError: it could not be written.
            MachineError: so, and disk or memory gave out.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        try:
            while lines := self._next():
                content = b"".join(line + b"\n" for line in lines)
                self._folder.put(receipts_file(self._run, self._files), content)
                self._files += 1
        except BaseException as error:
            with self._changed:
                self._error = error

    def _next(self) -> list[bytes]:
        """The receipts of the next file; none at the end."""
        with self._changed:
            while not (self._waiting or self._is_closing):
                self._changed.wait()
            ends = time.monotonic() + self._every_s
            while len(self._waiting) < _MOST and not self._is_closing:
                if (left := ends - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            lines, self._waiting = self._waiting, []
            return lines


class KeptReceipts:
    """The receipts in a folder, of all runs, by the names of their chunks.

    Only where each stands is kept in memory. One whose part isn't there, or has another size,
    counts as none.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: PartsFolder) -> None:
        self._folder = folder
        self._files = sorted(folder.sizes(RECEIPTS))
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._last: tuple[int, bytes] = (-1, b"")
        if self._files:
            self._look(folder.sizes("parts"))

    def __len__(self) -> int:
        return len(self._places)

    def get(self, name: bytes) -> bytes | None:
        """The receipt of a chunk as ``Receipt.packed`` gave it; None without one.

        Args:
            name: The chunk's, 32 bytes.
        """
        place = self._places.get(name)
        if place is None:
            return None
        number, start, end = place
        return self._content(number)[start:end]

    def _look(self, sizes: Mapping[str, int]) -> None:
        damaged = 0
        for number in range(len(self._files)):
            for start, end in _spans(self._content(number)):
                try:
                    receipt = Receipt.of(self._content(number)[start:end])
                except (ValueError, KeyError, TypeError):
                    damaged += 1
                    continue
                if sizes.get(receipt.file) == receipt.size:
                    self._places[bytes.fromhex(receipt.name)] = (number, start, end)
        if damaged:
            are = "receipt is" if damaged == 1 else "receipts are"
            _log.warning("%d %s damaged; what they are of is computed again", damaged, are)

    def _content(self, number: int) -> bytes:
        if self._last[0] != number:
            self._last = number, self._folder.read(self._files[number])
        return self._last[1]


def _spans(content: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        yield start, end
        start = end + 1
    if start < len(content):
        yield start, len(content)

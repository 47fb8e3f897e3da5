"""A file of lines: its filled lines from any byte on, and its digest while it is read."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from operator import methodcaller
from pathlib import Path

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.prompt_line import InputWords, LineKind
from forwardcache.jobs.prompt_source.source import Lines

JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
TEXT_SUFFIXES = frozenset({".txt", ".text"})

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_READ_BYTES = 1 << 18
_BEGINS_OBJECT = methodcaller("startswith", b"{")


class LineFile:
    """Lines that end with a line feed, before which a carriage return may stand.

    A name that ends in .jsonl, .ndjson or .json is of JSON lines, one in .txt of plain text;
    anything else is of JSON lines if its first line that isn't blank begins with ``{``.

    Args:
        name: What to call it; its path unless ``descriptor`` is given.
        words: What its lines are called.
        descriptor: An open file that is read in its place, and closed with this.

    Attributes:
        name: As given.
    """

    def __init__(self, name: str, words: InputWords, *, descriptor: int | None = None) -> None:
        self.name = name
        self._words = words
        self._descriptor = descriptor
        self._kind: LineKind | None = None
        self._digest = _RunningDigest()

    @property
    def kind(self) -> LineKind:
        """What its lines hold."""
        if self._kind is None:
            self._kind = self._told_kind()
        return self._kind

    def read(self, at: int, number: int, size: int) -> Generator[Lines, None, int]:
        """As of ``PromptFile``."""
        with self._opened(at) as file:
            numbers: list[int] = []
            places: list[int] = []
            raws: list[bytes] = []
            while lines := list(islice(file, size - len(raws))):
                if all(map(_BEGINS_OBJECT, lines)):
                    # As JSON lines are: none of them is blank.
                    numbers += range(number, number + len(lines))
                    places += accumulate(map(len, lines[:-1]), initial=at)
                    raws += _without_ends(lines)
                    at, number = places[-1] + len(lines[-1]), number + len(lines)
                else:
                    for found in lines:
                        raw = found.removeprefix(_BYTE_ORDER_MARK) if at == 0 else found
                        # A space of Unicode makes no prompt either.
                        if raw.strip() and (
                            raw.isascii() or raw.decode("utf-8", "replace").strip()
                        ):
                            numbers.append(number)
                            places.append(at)
                            raws.append(raw.removesuffix(b"\n").removesuffix(b"\r"))
                        at += len(found)
                        number += 1
                if len(raws) == size:
                    yield numbers, places, raws
                    numbers, places, raws = [], [], []
        if raws:
            yield numbers, places, raws
        return number

    def digest(self) -> str:
        """As of ``PromptFile``; what was read already isn't read again."""
        with self._opened(self._digest.length) as file:
            while file.read(_READ_BYTES):
                pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """As of ``PromptFile``."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _told_kind(self) -> LineKind:
        suffix = Path(self.name).suffix.lower()
        if suffix in JSON_SUFFIXES | TEXT_SUFFIXES:
            return "json" if suffix in JSON_SUFFIXES else "text"
        first = next((raws[0] for _, _, raws in self.read(0, 1, 1)), b"")
        return "json" if first.lstrip().startswith(b"{") else "text"

    @contextmanager
    def _opened(self, at: int) -> Iterator[io.BufferedReader]:
        own = self._descriptor
        try:
            descriptor = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC) if own is None else own
            try:
                raw = _Positioned(descriptor, at, self._digest.update)
                yield io.BufferedReader(raw, _READ_BYTES)
            finally:
                if own is None:
                    os.close(descriptor)
        except (OSError, ValueError) as error:
            raise unreadable(self.name, error, self._words) from error


def _without_ends(lines: Sequence[bytes]) -> Sequence[bytes]:
    """Lines without what ends them."""
    joined = b"".join(lines)
    if b"\r" in joined:
        return [line.removesuffix(b"\n").removesuffix(b"\r") for line in lines]
    return joined.removesuffix(b"\n").split(b"\n")


def unreadable(source: str, error: Exception, words: InputWords) -> InvalidInputError:
    """The error for a source that can't be read."""
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInputError(f"can't read the {words.one}s {source!r}: {reason}")


class _RunningDigest:
    """The digest of a file of which pieces are read in any order, each byte once."""

    def __init__(self) -> None:
        self.length = 0
        self._sha256 = hashlib.sha256()
        self._lock = threading.Lock()

    def update(self, at: int, piece: memoryview) -> None:
        """Takes what of a piece follows the bytes that are in it already."""
        with self._lock:
            if at <= self.length < at + len(piece):
                self._sha256.update(piece[self.length - at :])
                self.length = at + len(piece)

    def hexdigest(self) -> str:
        """Of all the bytes so far."""
        return self._sha256.hexdigest()


class _Positioned(io.RawIOBase):
    """An open file from a byte on; several may read one file, each from where it is.

    Args:
        descriptor: Of the file; it isn't closed with this.
        at: The first byte.
        note: Told of every piece and where it began.
    """

    def __init__(self, descriptor: int, at: int, note: Callable[[int, memoryview], None]) -> None:
        self._file, self._at, self._note = descriptor, at, note

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills ``buffer`` as far as the file goes."""
        count = os.preadv(self._file, [buffer], self._at)
        self._note(self._at, memoryview(buffer)[:count])
        self._at += count
        return count

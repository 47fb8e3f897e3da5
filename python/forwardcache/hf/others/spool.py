"""Tensors that are read again later: in memory up to a bound, then in a temporary file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

MOST_BYTES = 32 * 2**20
"""Of the tensors that are kept in memory."""


@dataclass(frozen=True, slots=True)
class _InFile:
    """Where a tensor lies in the file."""

    begin: int
    shape: torch.Size
    dtype: torch.dtype


class Spool:
    """Tensors by their number, in the order in which they were added.

    The file has no name, so that nothing is left of it however the process ends.

    Args:
        most_bytes: Of what is kept in memory; what comes after that goes to the file.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._entries: list[Tensor | _InFile] = []
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the tensors that are in no file."""
        return self._bytes

    def add(self, tensor: Tensor) -> int:
        """Keeps a copy of ``tensor``; its number.

        Raises:
            OSError: the disk is full or fails.
        """
        size = tensor.numel() * tensor.itemsize
        if self._bytes + size <= self._most:
            # A view would keep all of the batch that it is a part of.
            self._entries.append(tensor.detach().to("cpu", copy=True).contiguous())
            self._bytes += size
        else:
            self._entries.append(self._written(tensor.detach().cpu().contiguous()))
        return len(self._entries) - 1

    def get(self, number: int) -> Tensor:
        """The tensor of that number, on the CPU.

        Args:
            number: As ``add`` gave it.

        Raises:
            OSError: the disk fails.
        """
        entry = self._entries[number]
        if isinstance(entry, Tensor):
            return entry
        assert self._file is not None
        found = torch.empty(entry.shape, dtype=entry.dtype)
        into = _bytes_of(found)
        self._file.seek(entry.begin)
        # One read gives at most 2 GiB.
        done = 0
        while done < len(into):
            count = self._file.readinto(into[done:])  # type: ignore[attr-defined]
            if not count:
                raise OSError("a temporary file is shorter than what was written to it")
            done += count
        return found

    def size_of(self, number: int) -> int:
        """Bytes of the tensor of that number.

        Args:
            number: As ``add`` gave it.
        """
        entry = self._entries[number]
        return entry.shape.numel() * entry.dtype.itemsize

    def close(self) -> None:
        """Forgets all of them."""
        self._entries.clear()
        self._bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _written(self, tensor: Tensor) -> _InFile:
        if self._file is None:
            # Without a buffer: what is written is read again only after another model's run.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - ``close`` closes it
        begin = self._file.seek(0, 2)
        rest = _bytes_of(tensor)
        while rest:
            rest = rest[self._file.write(rest) :]
        return _InFile(begin, tensor.shape, tensor.dtype)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a tensor without gaps; numpy has no bfloat16."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data

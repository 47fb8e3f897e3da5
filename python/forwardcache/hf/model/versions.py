"""Whether tensors are still those that were looked at, as far as it is cheap to tell."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from forwardcache.hf.model.checksum import ContentSums, checksums
from forwardcache.hf.model.watch import storage_of

_version_of = torch.Tensor._version.__get__  # type: ignore[attr-defined]


class VersionWatch:
    """What is cheap to read of tensors and changes when their content does.

    Args:
        tensors: What is watched.
        steps: Steps that optimizers have made.
        saved: A digest of what else is watched, or nothing.
        adapted: Those of ``tensors`` whose content is summed at every look.
        wrapped: For each of ``tensors``, whether a forward raises its version and leaves its
            content: a sum then decides, and only then.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        steps: int,
        saved: list[bytes],
        *,
        adapted: Sequence[Tensor],
        wrapped: Sequence[bool],
    ) -> None:
        self._died = threading.Event()
        died = self._died
        # A pointer alone may be given to new memory once the old is freed.
        storages = map(storage_of, tensors)
        self._refs = [
            weakref.ref(each, lambda _: died.set()) for each in storages if each is not None
        ]
        self._sums = ContentSums(adapted)
        self._wrapped = list(wrapped)
        self._wrapped_sums = checksums(compress(tensors, self._wrapped))
        self._seen = self._look(tensors, steps, saved)

    def holds(self, tensors: Sequence[Tensor], steps: int, saved: list[bytes]) -> bool:
        """Whether they are the same as when they were looked at first."""
        if self._died.is_set():
            return False
        look = self._look(tensors, steps, saved)
        return look == self._seen or self._is_only_newer(look, tensors)

    def let_rise(
        self, tensors: Sequence[Tensor], steps: int, saved: list[bytes], wrapped: Sequence[bool]
    ) -> None:
        """Takes other flags for ``wrapped``, unless something changed since the last look."""
        if self.holds(tensors, steps, saved):
            self._wrapped = list(wrapped)
            self._wrapped_sums = checksums(compress(tensors, self._wrapped))

    def _is_only_newer(self, look: tuple[Any, ...], tensors: Sequence[Tensor]) -> bool:
        if not self._wrapped_sums or look[1:] != self._seen[1:]:
            return False
        pairs = zip(look[0], self._seen[0], self._wrapped, strict=True)
        if any(new != old and not may_rise for new, old, may_rise in pairs):
            return False
        if checksums(compress(tensors, self._wrapped)) != self._wrapped_sums:
            return False
        self._seen = look
        return True

    def _look(self, tensors: Sequence[Tensor], steps: int, saved: list[bytes]) -> tuple[Any, ...]:
        versions, pointers = map(_version_of, tensors), map(Tensor.data_ptr, tensors)
        return list(versions), list(pointers), steps, saved, self._sums.read()


__all__ = ["VersionWatch"]

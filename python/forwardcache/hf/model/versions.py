"""Whether tensors are still those that were looked at, as far as it is cheap to tell."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from forwardcache._core import _TensorLook
from forwardcache.hf.model.checksum import ContentSums, checksums
from forwardcache.hf.model.layout import layout
from forwardcache.hf.model.watch import storage_of

_version_of = torch.Tensor._version.__get__  # type: ignore[attr-defined]
needs_gradient = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]


class VersionWatch:
    """What is cheap to read of tensors and changes when their content does.

    Args:
        tensors: What is watched.
        steps: Steps that optimizers have made.
        saved: A digest of what else is watched, or nothing.
        adapted: Those of ``tensors`` whose content is summed at every look.
        wrapped: For each of ``tensors``, whether a forward raises its version and leaves its
            content: a sum then decides, and only then.
        frozen: For each of them, whether it asks for no gradient as long as ``stands`` is true.
    """

    def __init__(
        self,
        tensors: list[Tensor],
        steps: int,
        saved: list[bytes],
        *,
        adapted: Sequence[Tensor],
        wrapped: Sequence[bool],
        frozen: Sequence[bool],
    ) -> None:
        self._died = threading.Event()
        died = self._died
        # A pointer alone may be given to new memory once the old is freed.
        storages = list(map(storage_of, tensors))
        self._refs = [
            weakref.ref(each, lambda _: died.set()) for each in storages if each is not None
        ]
        self._sums = ContentSums(adapted)
        self._wrapped = list(wrapped)
        self._wrapped_sums = checksums(compress(tensors, self._wrapped))
        self._frozen = list(frozen)
        self._views: list[int] = []
        self._is_plain = None not in storages and all(map(_is_plain, tensors))
        self._seen = *_versions_and_pointers(tensors), steps, saved, self._sums.first
        self._quick = self._quick_look(tensors)

    def stands(self, tensors: list[Tensor], steps: int) -> bool:
        """Whether they are the same and none of ``frozen`` asks for a gradient.

        False also where that can't be told in a few microseconds: ``holds`` tells it.

        Args:
            tensors: What is watched: the same objects.
            steps: Steps that optimizers have made.
        """
        return (
            self._quick is not None
            and steps == self._seen[2]
            and not self._died.is_set()
            and self._quick.holds(tensors)
            and not (self._views and any(needs_gradient(tensors[at]) for at in self._views))
            and self._sums.stand()
        )

    def holds(self, tensors: list[Tensor], steps: int, saved: list[bytes]) -> bool:
        """Whether they are the same as when they were looked at first."""
        if saved == self._seen[3] and self.stands(tensors, steps):
            return True
        if self._died.is_set():
            return False
        look = *_versions_and_pointers(tensors), steps, saved, self._sums.read()
        if look != self._seen and not self._is_only_newer(look, tensors):
            return False
        self._quick = self._quick_look(tensors)
        return True

    def _quick_look(self, tensors: list[Tensor]) -> _TensorLook | None:
        """A look that reads the memory of the tensors; None where that says something else."""
        found = layout()
        if found is None or not self._is_plain or not self._sums.can_stand:
            return None
        if any(map(needs_gradient, compress(tensors, self._frozen))):
            return None
        # A view asks for what its base asks for, which is not in the view's own memory.
        pairs = enumerate(zip(tensors, self._frozen, strict=True))
        self._views = [at for at, (each, is_frozen) in pairs if is_frozen and each._is_view()]
        look = _TensorLook(found, tensors, self._frozen)
        widths = list(map(Tensor.element_size, tensors))
        return look if look.agrees(self._seen[0], self._seen[1], widths) else None

    def let_rise(
        self, tensors: list[Tensor], steps: int, saved: list[bytes], wrapped: Sequence[bool]
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


def _versions_and_pointers(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    return list(map(_version_of, tensors)), list(map(Tensor.data_ptr, tensors))


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a row of numbers in one storage, and torch's own getters tell of it."""
    kind = type(tensor)
    return (
        kind.__torch_dispatch__ is Tensor.__torch_dispatch__
        and not hasattr(kind, "__tensor_flatten__")
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not torch._is_functional_tensor(tensor)
    )


__all__ = ["VersionWatch"]

"""One lock a model, shared by every backend over the same weights.

Held only while tensors are read, switched or run; never while waiting for another thread's value,
so it can't be part of a deadlock with the cache.
"""

from __future__ import annotations

import threading
import weakref
from types import TracebackType

from torch import nn

from forwardcache.errors import NestedViewError


class ModelLock:
    """A lock that refuses its own holder instead of letting it in again.

    A forward under way has the model switched to some view. Whoever scores from inside it (a
    progress callback, a forward hook) would read the switched state as the model's own.

    Attributes:
        turn: How often it was taken so far.

    Raises:
        NestedViewError: the thread that enters holds the lock already.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self.turn = 0

    def refuse_holder(self) -> None:
        """Refuses the thread that holds the lock; waits for nobody."""
        if self._owner == threading.get_ident():
            raise NestedViewError(
                "scoring was called from inside a running forward of the same model "
                "(a progress callback or a hook); call it after the forward"
            )

    def __enter__(self) -> None:
        self.refuse_holder()
        self._lock.acquire()
        self._owner = threading.get_ident()
        self.turn += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._owner = None
        self._lock.release()


_locks: weakref.WeakKeyDictionary[nn.Module, ModelLock] = weakref.WeakKeyDictionary()
_registry = threading.Lock()


def lock_of(model: nn.Module) -> ModelLock:
    """The lock of ``model``; the same object for the same module."""
    with _registry:
        return _locks.setdefault(model, ModelLock())

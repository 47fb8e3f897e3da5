"""How many steps optimizers made, for weights that a fused one changes unseen."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


class OptimizerSteps:
    """Counts the steps of all optimizers, while an identity is alive.

    Fused optimizers change weights without moving their version counters, so a value of the old
    weights would be served for the new ones if the steps weren't part of what is compared.
    """

    # Reentrant: a collection inside `watch` may run the finalizer of another watcher.
    _lock = threading.RLock()
    _shared: OptimizerSteps | None = None

    def __init__(self) -> None:
        self.count = 0
        self._watchers = 0
        self._handle = register_optimizer_step_post_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.count += 1

    @classmethod
    def watch(cls, watcher: object) -> OptimizerSteps:
        """The shared counter; its hook is taken away with the last watcher."""
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls()
            cls._shared._watchers += 1
            weakref.finalize(watcher, cls._shared._leave)
            return cls._shared

    def _leave(self) -> None:
        with self._lock:
            self._watchers -= 1
            if not self._watchers:
                self._handle.remove()
                type(self)._shared = None


__all__ = ["OptimizerSteps"]

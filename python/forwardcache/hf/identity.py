"""Whether the model and the tokenizer are still those that a cached value came from.

A *snapshot* is everything cheap to read that changes when the weights, the adapter or the encoding
do: for each tensor its object, memory, version counter and dtype; for each layer its adapters and
scaling; the configuration; the tokenizer's settings; the number of optimizer steps taken anywhere.
A snapshot that differs from the last one begins a new *generation*, whose number is part of every
key, so that nothing older is ever found again.

What it doesn't see: writes that torch itself can't see (through ``.data``, numpy, another process).
``ModelIdentity.weights_changed`` is there for those.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from forwardcache.hf.adapter import AdapterTraits, traits_of
from forwardcache.hf.spec import tagged

_Snapshot = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ModelState:
    """The model and the tokenizer as they were at one moment.

    Attributes:
        generation: Rises whenever anything changed.
        traits: What the adapter allows.
        key: Bytes that no other state of this or any other backend has.
    """

    generation: int
    traits: AdapterTraits
    key: bytes


class ModelIdentity:
    """Tells states of one model and its tokenizer apart.

    Every method is called with the model's lock held: in the middle of another thread's forward the
    model is in some view, which is not a change.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # Two backends over equal folders share nothing; a random token says so.
        self._token = os.urandom(16)
        self._steps = _OptimizerSteps.watch(self)
        self._generations = itertools.count()
        self._snapshot: _Snapshot | None = None
        self._watched: list[weakref.ref[Any]] = []
        self._died = threading.Event()
        self._state: ModelState | None = None

    def state(self, tokenizer: Any) -> ModelState:
        """The present state; a new generation if anything differs from the last look.

        Raises:
            UnsupportedModelError: the adapter is of a kind whose views are not known to be exact.
        """
        settings = (self._steps.count, _tokenizer_snapshot(tokenizer))
        snapshot = (settings, _snapshot(self._model))
        if self._state is None or snapshot != self._snapshot or self._died.is_set():
            self._state = self._begin(tokenizer)
            self._snapshot = snapshot
        return self._state

    def weights_changed(self) -> None:
        """Begins a new generation, for changes that nothing here can see."""
        self._state = None

    def _begin(self, tokenizer: Any) -> ModelState:
        self._watch_objects(tokenizer)
        generation = next(self._generations)
        key = tagged([self._token, str(generation).encode()])
        return ModelState(generation, traits_of(self._model), key)

    def _watch_objects(self, tokenizer: Any) -> None:
        # An id alone may be given to a new tensor once the old one is gone. A strong reference
        # would keep replaced weights in memory, so a weak one reports their end instead.
        died = threading.Event()
        self._died = died
        objects = [*_tensors(self._model), *self._model.modules(), tokenizer]
        self._watched = [weakref.ref(each, lambda _: died.set()) for each in objects]


class _OptimizerSteps:
    """Counts the steps of all optimizers, while an identity is alive.

    Fused optimizers change weights without moving their version counters (rule 26).
    """

    # Reentrant: a collection inside `watch` may run the finalizer of another watcher.
    _lock = threading.RLock()
    _shared: _OptimizerSteps | None = None

    def __init__(self) -> None:
        self.count = 0
        self._watchers = 0
        self._handle = register_optimizer_step_post_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.count += 1

    @classmethod
    def watch(cls, watcher: object) -> _OptimizerSteps:
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


def _snapshot(model: nn.Module) -> list[Any]:
    """Everything about the model, flat: this runs in every call, also where all is cached."""
    seen: list[Any] = [model.training, _config_snapshot(model), *_numerics_snapshot()]
    for module in _modules(model):
        fields = module.__dict__
        seen.append(id(module))
        for tensors in (fields["_parameters"], fields["_buffers"]):
            for tensor in tensors.values():
                seen += _tensor_snapshot(tensor)
        if fields["_forward_hooks"] or fields["_forward_pre_hooks"]:
            seen += map(id, fields["_forward_hooks"].values())
            seen += ("pre", *map(id, fields["_forward_pre_hooks"].values()))
        if "forward" in fields:
            seen.append(id(fields["forward"]))
        if "_active_adapter" in fields or "_disable_adapters" in fields:
            seen += _layer_snapshot(fields)
    return seen


def _modules(model: nn.Module) -> list[nn.Module]:
    """All modules, each once; ``Module.modules`` costs several times as much."""
    found, known = [model], {model}
    for module in found:
        for child in module.__dict__["_modules"].values():
            if child is not None and child not in known:
                known.add(child)
                found.append(child)
    return found


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    for module in _modules(model):
        for tensors in (module._parameters, module._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)


def _tensor_snapshot(tensor: torch.Tensor | None) -> tuple[Any, ...]:
    if tensor is None:
        return (None,)
    if tensor.is_inference():
        # No version counter: only the values can tell.
        return id(tensor), _digest(tensor), tensor.dtype
    return id(tensor), tensor.data_ptr(), tensor._version, tensor.dtype, tensor.requires_grad


def _digest(tensor: torch.Tensor) -> int:
    return hash(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _layer_snapshot(fields: dict[str, Any]) -> tuple[Any, ...]:
    """A tuner layer's own fields; one that isn't there has its class's value until it is set."""
    return (
        fields.get("_disable_adapters"),
        tuple(fields.get("_active_adapter", ())),
        tuple(fields.get("merged_adapters", ())),
        tuple(fields.get("scaling", {}).items()),
    )


def _config_snapshot(model: Any) -> tuple[Any, ...]:
    adapters = getattr(model, "peft_config", {})
    return (repr(_plain(model.config)), *((name, id(adapters[name])) for name in adapters))


def _plain(value: Any) -> Any:
    """A configuration as plain values; its own ``repr`` is JSON, and far slower."""
    if hasattr(value, "to_dict"):
        return {key: _plain(each) for key, each in vars(value).items()}
    return value


def _numerics_snapshot() -> Iterator[Any]:
    """Process-wide settings that change what a forward gives."""
    yield torch.get_float32_matmul_precision()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            yield device, torch.get_autocast_dtype(device)


def _tokenizer_snapshot(tokenizer: Any) -> tuple[Any, ...]:
    fields = vars(tokenizer)
    # The Rust tokenizer's own repr has the truncation that every call sets anew; its parts haven't.
    settings = repr({key: value for key, value in fields.items() if key != "_tokenizer"})
    backend = fields.get("_tokenizer")
    parts = [
        repr(getattr(backend, part, None))
        for part in ("normalizer", "pre_tokenizer", "post_processor")
    ]
    return (id(tokenizer), id(backend), len(tokenizer), settings, *parts)


__all__ = ["ModelIdentity", "ModelState"]

"""What each view of a model is let do, measured before its first value and remembered.

A verdict belongs to a structure (classes and their code, configuration, dtype, the settings of the
adapters) and to whether the adapter is on. One of the same structure in this process takes it over.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.probe import measured_ways, probe_rows
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.model.adapters import Adapters
from forwardcache.hf.model.identity import ModelIdentity, Structure
from forwardcache.hf.model.switch import switched
from forwardcache.hf.spec import BASE, ViewSpec

_REMEMBERED = 256

Entered = Callable[[ViewSpec], AbstractContextManager[nn.Module]]

_lock = threading.Lock()
_known: OrderedDict[bytes, Ways] = OrderedDict()


class Admissions:
    """Verdicts on the views of one model. Every method is called with the model's lock held.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
        runner: Runs its forward.
        identity: Tells structures of the model apart.
    """

    def __init__(
        self, model: nn.Module, causal_lm: Any, runner: ForwardRunner, identity: ModelIdentity
    ) -> None:
        self._model = model
        self._lm = causal_lm
        self._runner = runner
        self._identity = identity
        self._number = -1
        self._words: bytes | None = None
        self._is_shared = False
        self._ways: dict[bool, Ways] = {}

    def ways(self, structure: Structure, spec: ViewSpec, most: int | None) -> Ways:
        """What the model in a view is let do; measured where nobody knows.

        Args:
            structure: The model's present structure.
            spec: The view. All but ``base`` run the adapter's code, with other numbers in it.
            most: Most tokens of a row; None for no limit.

        Raises:
            UnsupportedModelError: it can't run on token ids alone.
        """
        if self._number != structure.number:
            self._enter(structure)
        is_base = spec.kind == "base"
        if is_base not in self._ways:
            self._ways[is_base] = self._found(spec, most)
        return self._ways[is_base]

    def _enter(self, structure: Structure) -> None:
        """Keeps what was measured of the structure before only if nothing but hooks is new."""
        found = self._identity.structure_words()
        words, self._is_shared = (None, False) if found is None else found
        if words is None or words != self._words:
            self._ways = {}
        self._number, self._words = structure.number, words

    def _found(self, spec: ViewSpec, most: int | None) -> Ways:
        words = (self._words, self._is_shared) if self._words is not None else None

        def measured() -> Ways:
            with switched(self._model, spec), torch.inference_mode():
                return _measured(self._runner, self._model, self._lm, most)

        return _shared(words, spec, self._runner, measured)


class NamedAdmissions:
    """Verdicts on the base model and on it with each of several adapters.

    Every method is called with the model's lock held.

    Args:
        adapters: The adapters.
        causal_lm: The transformers model itself.
        runner: Runs its forward.
        entered: Gives the model to call, switched to a view.
    """

    def __init__(
        self, adapters: Adapters, causal_lm: Any, runner: ForwardRunner, entered: Entered
    ) -> None:
        self._adapters = adapters
        self._lm = causal_lm
        self._runner = runner
        self._entered = entered
        self._ways: OrderedDict[tuple[int, bytes | None], Ways] = OrderedDict()

    def ways(self, structure: Structure, spec: ViewSpec, most: int | None, tokenizer: Any) -> Ways:
        """As of ``Admissions``; an adapter is loaded only where nobody knows.

        Args:
            structure: The model's present structure.
            spec: The view, with the name of its adapter.
            most: Most tokens of a row; None for no limit.
            tokenizer: The tokenizer.
        """
        adapters = self._adapters
        record = None if spec.adapter is None else adapters.record(spec.adapter, tokenizer)
        key = structure.number, None if record is None else record.content
        if key not in self._ways:
            words = adapters.base_words(tokenizer) if record is None else record.words
            measured = partial(self._measured, spec, most)
            self._ways[key] = _shared(words, spec, self._runner, measured)
        while len(self._ways) > _REMEMBERED:
            self._ways.popitem(last=False)
        return self._ways[key]

    def _measured(self, spec: ViewSpec, most: int | None) -> Ways:
        with self._entered(spec) as model, torch.inference_mode():
            return _measured(self._runner, model, self._lm, most)


def _shared(
    words: tuple[bytes, bool] | None,
    spec: ViewSpec,
    runner: ForwardRunner,
    measured: Callable[[], Ways],
) -> Ways:
    """What another model of the same structure has shown, else what is measured now."""
    key = None
    if words is not None and words[1]:
        key = words[0] + repr((spec == BASE, runner.device)).encode()
    known = None if key is None else _recalled(key)
    if known is not None:
        return known
    ways = measured()
    if key is not None and ways.is_of_structure:
        _remember(key, ways)
    return ways


def _measured(runner: ForwardRunner, model: nn.Module, causal_lm: Any, most: int | None) -> Ways:
    """What ``model``, which is in its view, shows."""
    rows = probe_rows(model, causal_lm, size=runner.readable_ids, most=most)
    try:
        return measured_ways(runner, rows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        note = "memory was too small to measure more: one row a forward"
        return Ways(notes=[note], is_of_structure=False)


def _recalled(key: bytes) -> Ways | None:
    with _lock:
        if key in _known:
            _known.move_to_end(key)
        return _known.get(key)


def _remember(key: bytes, ways: Ways) -> None:
    with _lock:
        _known[key] = ways
        while len(_known) > _REMEMBERED:
            _known.popitem(last=False)


def forget_all() -> None:
    """Forgets what other models of this process have shown."""
    with _lock:
        _known.clear()

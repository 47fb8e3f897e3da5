"""Adapters in folders: on the model while a view of theirs runs, in memory a few at once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from forwardcache.errors import AdapterError
from forwardcache.hf.model.adapter_files import fingerprint
from forwardcache.hf.model.adapter_folder import ADAPTER_NAME, put_adapter
from forwardcache.hf.model.adapters import AdapterRecord, Adapters, recorded
from forwardcache.hf.model.identity import ModelIdentity, ModelState, Structure
from forwardcache.hf.model.lock import lock_of
from forwardcache.hf.model.overlay import Overlay, Snapshot

_REMEMBERED = 1024

_lock = threading.Lock()
_known: OrderedDict[tuple[bytes, bytes], AdapterRecord] = OrderedDict()
"""By what the base model is built like, and the files of an adapter."""


class AdaptersOfFolders(Adapters):
    """The adapters in some folders.

    An adapter is loaded (by PEFT) when a view of it has to be run, and when nothing is known of it
    yet; what it holds is remembered by the contents of its files. While it isn't run the model is,
    object for object, what it was without it. Files that changed are loaded again.

    Args:
        model: The model of transformers, without an adapter.
        identity: Its identity.
        folders: Where each adapter is, by its name.
        most: How many are in memory at once, at least 1.
        body: What gives the model's head its states; None where it can't be told.

    Attributes:
        loads: How often one was loaded so far.
    """

    def __init__(
        self,
        model: Any,
        identity: ModelIdentity,
        folders: Mapping[str, str],
        *,
        most: int,
        body: Any,
    ) -> None:
        super().__init__(tuple(folders), lock_of(model))
        self.loads = 0
        self._model = model
        self._identity = identity
        self._folders = dict(folders)
        self._most = self.most_in_memory = most
        self._took = 0.0
        self._keeps_first = False
        self._told: set[str] = set()
        self._body = body
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._own: dict[tuple[int, bytes], AdapterRecord] = {}

    @property
    def in_memory(self) -> tuple[str, ...]:
        """The names of those that are in memory, the one least recently used first."""
        return tuple(self._held)

    def _record(self, name: str, tokenizer: Any) -> AdapterRecord:
        held = self._still_held(name, tokenizer)
        if held is not None:
            return held.record(tokenizer)
        key, files = self._key(name, tokenizer)
        known = self._own.get(key) or self._recalled(files, tokenizer)
        if known is None:
            known = self._loaded(name, tokenizer).record(tokenizer)
        self._own[key] = known
        return known

    def content_known(self, name: str, tokenizer: Any) -> bytes | None:
        """As of ``Adapters``."""
        try:
            known = self._own.get(self._key(name, tokenizer)[0])
        except AdapterError:
            return None
        return None if known is None else known.content

    @contextmanager
    def _on(self, name: str | None, tokenizer: Any) -> Iterator[nn.Module]:
        if name is None:
            yield self._model
            return
        held = self._still_held(name, tokenizer) or self._loaded(name, tokenizer)
        self._held.move_to_end(name)
        with held.overlay.on():
            yield held.model

    def _structure(self, tokenizer: Any) -> Structure:
        return self._identity.structure(tokenizer)

    def _base_key(self, tokenizer: Any) -> bytes:
        return self._identity.state(tokenizer).key

    @contextmanager
    def base_identity(self) -> Iterator[ModelIdentity]:
        """As of ``Adapters``."""
        yield self._identity

    def weights_changed(self) -> None:
        """As of ``Adapters``; the model stands without adapters, so that the two are one."""

    @contextmanager
    def looked_over(self) -> Iterator[None]:
        """What is loaded in the body makes room for itself by letting go of the newest.

        All adapters are looked at once in the beginning, and whoever asks for all of them asks for
        the first ones first.
        """
        self._keeps_first = True
        try:
            yield
        finally:
            self._keeps_first = False

    def _key(self, name: str, tokenizer: Any) -> tuple[tuple[int, bytes], bytes]:
        files = fingerprint(self._folders[name])
        return (self.structure(tokenizer).number, files), files

    def _still_held(self, name: str, tokenizer: Any) -> _Held | None:
        """The adapter if it is in memory, and the one of its folder for the model as it is."""
        held = self._held.get(name)
        if held is None:
            return None
        if held.key == self._key(name, tokenizer)[0] and held.overlay.fits():
            return held
        del self._held[name]
        return None

    def _loaded(self, name: str, tokenizer: Any) -> _Held:
        key, files = self._key(name, tokenizer)
        self._held.pop(name, None)
        while len(self._held) >= self._most:
            self._held.popitem(last=self._keeps_first)
        began = time.perf_counter()
        tells = name not in self._told
        self._told.add(name)
        model, overlay = put_beside(self._model, self._folders[name], tells=tells)
        self._took += time.perf_counter() - began
        self.loads += 1
        self.seconds_a_load = self._took / self.loads
        held = _Held(model, overlay, key, self._body)
        self._held[name] = held
        record = held.record(tokenizer, self._own.get(key))
        # Written to meanwhile, the files would be remembered for what was loaded.
        if self._key(name, tokenizer) == (key, files):
            self._own[key] = record
            self._remember(files, tokenizer, record)
        return held

    def _recalled(self, files: bytes, tokenizer: Any) -> AdapterRecord | None:
        words = self.base_words(tokenizer)
        if words is None or not words[1]:
            return None
        with _lock:
            return _known.get((words[0], files))

    def _remember(self, files: bytes, tokenizer: Any, record: AdapterRecord) -> None:
        words = self.base_words(tokenizer)
        if words is not None and words[1] and record.why_not_lasting is None:
            with _lock:
                _known[words[0], files] = record
                while len(_known) > _REMEMBERED:
                    _known.popitem(last=False)


class _Held:
    """An adapter in memory.

    Attributes:
        model: What is called, while ``overlay`` is on.
        overlay: What it puts into the base model.
        key: What it was loaded for.
    """

    def __init__(self, model: nn.Module, overlay: Overlay, key: Any, body: Any) -> None:
        self.model = model
        self.overlay = overlay
        self.key = key
        self._body = body
        self._identity = ModelIdentity(model)
        self._seen: tuple[ModelState, AdapterRecord] | None = None

    def record(self, tokenizer: Any, known: AdapterRecord | None = None) -> AdapterRecord:
        """What is known of it now.

        Args:
            tokenizer: The tokenizer.
            known: What is known of the files that it was loaded from just now.
        """
        with self.overlay.on():
            state = self._identity.state(tokenizer)
            if self._seen is None or self._seen[0] is not state:
                own = self._identity, self.model, ADAPTER_NAME
                why = self._identity.why_unknown(tokenizer)
                new = known or recorded(*own, state=state, why=why, body=self._body)
                self._seen = state, new
        return self._seen[1]


def put_beside(model: Any, folder: str, *, tells: bool = True) -> tuple[nn.Module, Overlay]:
    """The adapter in ``folder`` for a model that stays as it is.

    Args:
        model: The model.
        folder: The folder.
        tells: As of ``put_adapter``.

    Returns:
        What is called while the overlay is on, and the overlay, which is off.

    Raises:
        AdapterError: the folder holds no adapter, one of another model, or one that changes the
            base model's own weights.
    """
    before = Snapshot(model)
    try:
        # PEFT draws weights before it loads them. Made in inference mode, in which views run, they
        # would have no versions, and could be run in no other mode.
        with torch.random.fork_rng(_drawn_on(model)), torch.inference_mode(False):
            adapted = put_adapter(model, folder, keeps_base=True, tells=tells)
    finally:
        overlay = before.changed()
    if before.written():
        raise AdapterError(
            f"the adapter {folder} wrote to the base model's weights when it was loaded: load the "
            "model again, and this adapter alone, without a name"
        )
    return adapted, overlay


def _drawn_on(model: Any) -> list[torch.device]:
    """The devices other than the CPU whose random state is kept."""
    devices = {each.device for each in model.parameters()}
    return sorted((each for each in devices if each.type == "cuda"), key=str)


def forget_all() -> None:
    """Forgets what adapters of this process hold."""
    with _lock:
        _known.clear()


__all__ = ["AdaptersOfFolders", "forget_all", "put_beside"]

"""Adapters that a model came with: each of them alone is active while a view of it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.model.adapter_parts import available_adapters, switched_modules
from forwardcache.hf.model.adapters import AdapterRecord, Adapters, recorded
from forwardcache.hf.model.identity import ModelIdentity, ModelState, Structure
from forwardcache.hf.model.lock import lock_of
from forwardcache.hf.model.overlay import wrapped
from forwardcache.hf.model.peft_kinds import AuxiliaryTrainingWrapper, TrainableTokensLayer

_OF_MODEL, _OF_LAYER = "active_adapter", "_active_adapter"
_ABSENT: Any = object()


class AdaptersOnModel(Adapters):
    """The adapters that are on a model, as whoever made it put them there.

    Args:
        model: What is called: the PEFT model, or one of transformers with adapters in it.
        causal_lm: The transformers model itself.
        identity: Of the model as it stands.
        names: The adapters' names, as PEFT has them.
        body: What gives the model's head its states; None where it can't be told.
        base: Identity of the base model, which is looked at without adapters.
        needs_name: Whether a view has to say which of several it is of.
    """

    def __init__(
        self,
        model: nn.Module,
        causal_lm: Any,
        identity: ModelIdentity,
        names: Sequence[str],
        *,
        body: Any,
        base: ModelIdentity,
        needs_name: bool,
    ) -> None:
        super().__init__(names, lock_of(causal_lm), needs_name=needs_name)
        self._model = model
        self._lm = causal_lm
        self._identity = identity
        self._body = body
        self._base = base
        self._seen: ModelState | None = None
        self._records: dict[str, AdapterRecord] = {}
        self._base_seen: bytes | None = None

    def _record(self, name: str, tokenizer: Any) -> AdapterRecord:
        state = self._look(tokenizer)
        if name not in self._records:
            if state.traits.merged:
                merged = ", ".join(state.traits.merged)
                raise UnsupportedModelError(
                    f"adapter {merged} is merged into the weights, so that {name!r} can't be run "
                    "alone: unmerge it"
                )
            why = self._identity.why_unknown(tokenizer)
            own = self._identity, self._model, name
            with activated(self._model, name):
                self._records[name] = recorded(*own, state=state, why=why, body=self._body)
        return self._records[name]

    def content_known(self, name: str, tokenizer: Any) -> bytes | None:
        """As of ``Adapters``."""
        return self.record(name, tokenizer).content

    @contextmanager
    def _on(self, name: str | None, tokenizer: Any) -> Iterator[nn.Module]:
        if name is None:
            with wrapped(self._lm).off():
                yield self._lm
            return
        with activated(self._model, name):
            yield self._model

    def _structure(self, tokenizer: Any) -> Structure:
        return self._identity.structure(tokenizer)

    def _base_key(self, tokenizer: Any) -> bytes:
        self._look(tokenizer)
        if self._base_seen is None:
            with self.base_identity() as identity:
                self._base_seen = identity.state(tokenizer).key
        return self._base_seen

    @contextmanager
    def base_identity(self) -> Iterator[ModelIdentity]:
        """As of ``Adapters``."""
        with wrapped(self._lm).off():
            yield self._base

    def weights_changed(self) -> None:
        """As of ``Adapters``."""
        self._base.weights_changed()

    def _look(self, tokenizer: Any) -> ModelState:
        """The state of the whole; what was found in another one is forgotten."""
        state = self._identity.state(tokenizer)
        if state is not self._seen:
            self._seen, self._records, self._base_seen = state, {}, None
        return state


@contextmanager
def activated(model: nn.Module, name: str) -> Iterator[None]:
    """The adapter of that name alone is active in the body; no gradient is turned on for it."""
    around = [vars(each) for each in (model, *model.children()) if _OF_MODEL in vars(each)]
    layers = [(vars(each), _active_in(each, name)) for each in switched_modules(model)]
    saved: list[tuple[Any, ...]]
    saved = [(fields, _OF_MODEL, fields[_OF_MODEL], name) for fields in around]
    saved += [(fields, _OF_LAYER, fields.get(_OF_LAYER, _ABSENT), own) for fields, own in layers]
    try:
        for fields, key, _, active in saved:
            fields[key] = active
        yield
    finally:
        for fields, key, before, _ in saved:
            if before is _ABSENT:
                del fields[key]
            else:
                fields[key] = before


def _active_in(layer: nn.Module, name: str) -> list[str]:
    """What PEFT itself makes active in a layer once ``name`` is active.

    Nothing in one that stands for a module which ``name`` leaves alone: asked for its weight, it
    would look for the adapter's.
    """
    stands_for = isinstance(layer, AuxiliaryTrainingWrapper | TrainableTokensLayer)
    return [] if stands_for and name not in available_adapters(layer) else [name]


__all__ = ["AdaptersOnModel", "activated"]

"""Where the hidden states of a view stand: under what its body is, and nothing of its head."""

from __future__ import annotations

from dataclasses import dataclass

from forwardcache.hf.scoring.loaded import LoadedModel
from forwardcache.hf.scoring.value_store import KeySpace
from forwardcache.hf.spec import BASE, ViewSpec, tagged
from forwardcache.operations.hidden_states import HiddenStates


@dataclass(frozen=True, slots=True)
class BodySpace:
    """Where the states of one body in one view stand.

    Attributes:
        view: The view as far as it touches the body: ``base`` where an adapter is on the head only.
        body: 32 bytes that no other state of the body has.
        lasting: 32 bytes that it has in every process; None where there are none, or no store.
    """

    view: ViewSpec
    body: bytes
    lasting: bytes | None

    @property
    def scope(self) -> bytes:
        """What decides states in memory, but for the tokens."""
        return tagged((b"forwardcache.hf.states", self.body, tagged(self.view.key_fields)))

    @property
    def key_space(self) -> KeySpace | None:
        """Likewise in a store."""
        if self.lasting is None:
            return None
        return KeySpace(self.lasting, self.view, b"", HiddenStates())


def body_space(model: LoadedModel, spec: ViewSpec, *, lasts: bool) -> BodySpace:
    """Where the states of a view stand; the caller holds the model's lock.

    Args:
        model: The model.
        spec: The view, as ``runs_as`` gave it.
        lasts: Whether the key of other processes is wanted too.
    """
    adapts_body, adapts_head = _adapts(model, spec)
    view = spec if adapts_body or not _gives_base(model) else BASE
    if view.kind == "null" and adapts_head:
        # Noise is drawn for all layers in one sequence, those of the head among them.
        return BodySpace(view, model.state(spec).key, model.lasting_key(spec) if lasts else None)
    tokenizer = model.tokenizer
    if model.adapters is not None and (named := model.named(view)) is not None:
        lasting = named.lasting_body_key(view, tokenizer) if lasts else None
        return BodySpace(view, named.body_key(view, tokenizer), lasting)
    identity, is_base = model.identity, view == BASE
    lasting = identity.lasting_body_key(tokenizer, without_adapter=is_base) if lasts else None
    return BodySpace(view, identity.body(tokenizer).key, lasting)


def _adapts(model: LoadedModel, spec: ViewSpec) -> tuple[bool, bool]:
    """Whether the view's adapter has a part in the body, and in the head."""
    if spec == BASE:
        return False, False
    if model.adapters is not None and spec.adapter is not None:
        record = model.adapters.record(spec.adapter, model.tokenizer)
        return record.adapts_body, record.adapts_head
    parts = model.identity.body(model.tokenizer).parts
    return parts.adapts_body, parts.adapts_head


def _gives_base(model: LoadedModel) -> bool:
    if model.adapters is not None:
        return True
    return model.identity.structure(model.tokenizer).traits.gives(BASE)

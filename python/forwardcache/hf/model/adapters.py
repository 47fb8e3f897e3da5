"""Several adapters of one model, by name: what each holds, and the model with one of them on.

A key of a view is made of two parts: the state of the base model, looked at with no adapter on it,
and what the view's adapter holds (``content_of``). So base's values never depend on which adapters
there are, nor one adapter's on the others; an adapter that was let go and loaded again has the key
that it had; and two names for one content have one.

``adapters_of_folders`` loads adapters when one of their views has to be run, and lets go of those
least recently used; ``adapters_on_model`` serves a model that came with its adapters on.

Every method is called with the model's lock held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from forwardcache.hf.model.adapter import AdapterTraits, traits_of
from forwardcache.hf.model.adapter_content import content_of
from forwardcache.hf.model.adapter_parts import is_switched_outside, wrapped_parameters
from forwardcache.hf.model.body import parts_of
from forwardcache.hf.model.checksum import digest_of
from forwardcache.hf.model.identity import ModelIdentity, ModelState, Structure
from forwardcache.hf.model.lock import ModelLock
from forwardcache.hf.spec import ViewSpec

Words = tuple[bytes, bool]
"""What is the same for every model that is built so, and whether it says everything."""


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """What is known of an adapter; it stays true while the adapter is not in memory.

    Attributes:
        content: 32 bytes for what it holds.
        body_content: 32 bytes for what it holds outside the model's head.
        adapts_body: Whether it has a part outside the head.
        adapts_head: Whether it has one in the head.
        traits: What it allows.
        words: What is the same for every model that is built as this one with it; None if unknown.
        is_outside: Whether it has a part outside the model's body, such as in the head.
        why_not_lasting: Why ``content`` says nothing in another process; None if it does.
    """

    content: bytes
    body_content: bytes
    adapts_body: bool
    adapts_head: bool
    traits: AdapterTraits
    words: Words | None
    is_outside: bool
    why_not_lasting: str | None


def recorded(
    identity: ModelIdentity,
    model: nn.Module,
    name: str,
    *,
    state: ModelState,
    why: str | None,
    body: Any,
) -> AdapterRecord:
    """What is to be known of an adapter that is on its model and active.

    Args:
        identity: The model's, with the adapter on it.
        model: What is called.
        name: What PEFT calls the adapter.
        state: The model's state.
        why: Why that doesn't last; None if it does.
        body: What gives the head its states; None where it can't be told.
    """
    parts = parts_of(model)
    contents = content_of(model, name), content_of(model, name, but=parts.head)
    whole, of_body = (each if why is None else digest_of([each, state.key]) for each in contents)
    return AdapterRecord(
        content=whole,
        body_content=of_body,
        adapts_body=parts.adapts_body,
        adapts_head=parts.adapts_head,
        traits=traits_of(model),
        words=identity.structure_words(),
        is_outside=not isinstance(body, nn.Module) or is_switched_outside(model, body),
        why_not_lasting=why,
    )


class Adapters(ABC):
    """The adapters of one model.

    Args:
        names: What they are called, in order.
        lock: The model's.
        needs_name: As of the attributes.

    Attributes:
        names: As given.
        needs_name: Whether a view says which of several it is of; else one that doesn't is of what
            is active on the model.
        most_in_memory: Of how many one is loaded only once; None for any number.
        seconds_a_load: What loading one took on average so far.
    """

    most_in_memory: int | None = None
    seconds_a_load: float = 0.0

    def __init__(self, names: Sequence[str], lock: ModelLock, *, needs_name: bool = True) -> None:
        self.names = tuple(names)
        self.needs_name = needs_name
        self._states: dict[str | None, tuple[Any, ...]] = {}
        self._lock = lock
        self._turn = -1
        self._looked: dict[Any, Any] = {}

    def leave_out(self, name: str) -> None:
        """Forgets an adapter that can't be used; no view is of it from here on."""
        self.names = tuple(each for each in self.names if each != name)

    def looked_over(self) -> AbstractContextManager[None]:
        """Entered while every adapter is looked at for the first time."""
        return nullcontext()

    def record(self, name: str, tokenizer: Any) -> AdapterRecord:
        """What is known of an adapter now; it is loaded only if nobody knows.

        Raises:
            AdapterError: it can't be loaded any more.
        """
        found: AdapterRecord = self._once((name,), lambda: self._record(name, tokenizer))
        return found

    def structure(self, tokenizer: Any) -> Structure:
        """How the base model is built, with what its own view allows."""
        found: Structure = self._once("structure", lambda: self._structure(tokenizer))
        return found

    def base_key(self, tokenizer: Any) -> bytes:
        """The key of the base model's state, which no adapter is part of."""
        found: bytes = self._once("base", lambda: self._base_key(tokenizer))
        return found

    def _once(self, what: Any, look: Callable[[], Any]) -> Any:
        """What a look gives; the same until the lock's next turn or the next forward.

        A look goes over all of the model, and a call asks several times what it knows.
        """
        if self._turn != self._lock.turn:
            self._turn, self._looked = self._lock.turn, {}
        if what not in self._looked:
            self._looked[what] = look()
        return self._looked[what]

    @contextmanager
    def on(self, name: str | None, tokenizer: Any) -> Iterator[nn.Module]:
        """The model to call, with that adapter on it in the body; None for base.

        Raises:
            AdapterError: it can't be loaded.
        """
        try:
            with self._on(name, tokenizer) as model, self._as_it_was(name, model):
                yield model
        finally:
            self._looked = {}

    @contextmanager
    def _as_it_was(self, name: str | None, model: nn.Module) -> Iterator[None]:
        """Base parameters that forwards in the body replace have their places again afterwards.

        PEFT puts them back at the end, and as a newer version: the base model's identity, which
        knows nothing of the adapter then, would take either for a change.
        """
        if name is None:
            yield
            return
        wrapped = list(wrapped_parameters(model.modules()))
        held = {id(module): vars(module)["_parameters"] for module, _ in wrapped}
        orders = [(where, list(where)) for where in held.values()]
        if wrapped:
            with self.base_identity() as identity:
                identity.let_rise([vars(module)["_parameters"][key] for module, key in wrapped])
        try:
            yield
        finally:
            for where, order in orders:
                if list(where) != order and where.keys() == set(order):
                    for key in order:
                        where[key] = where.pop(key)

    @abstractmethod
    def _record(self, name: str, tokenizer: Any) -> AdapterRecord: ...

    @abstractmethod
    def _structure(self, tokenizer: Any) -> Structure: ...

    @abstractmethod
    def _base_key(self, tokenizer: Any) -> bytes: ...

    @abstractmethod
    def _on(self, name: str | None, tokenizer: Any) -> AbstractContextManager[nn.Module]: ...

    @abstractmethod
    def base_identity(self) -> AbstractContextManager[ModelIdentity]:
        """A context manager that gives the identity of the base model, without any adapter."""

    @abstractmethod
    def content_known(self, name: str, tokenizer: Any) -> bytes | None:
        """What an adapter is known to hold, without a closer look; None if it isn't known."""

    @abstractmethod
    def weights_changed(self) -> None:
        """Begins a new state of the base model, beside that of the model as it stands."""

    def checked(self, spec: ViewSpec, tokenizer: Any) -> ViewSpec:
        """The view that is run for ``spec``: of adapters that hold the same, the first one's.

        Raises:
            UnsupportedModelError: the model can't give it exactly.
            AdapterError: its adapter can't be loaded.
        """
        runs = spec.canonical()
        self.structure_in(runs, tokenizer).traits.check(runs)
        if runs.adapter is None:
            return runs
        return replace(runs, adapter=self._first_of(runs.adapter, tokenizer))

    def structure_in(self, spec: ViewSpec, tokenizer: Any) -> Structure:
        """How the model of a view is built."""
        structure = self.structure(tokenizer)
        if spec.adapter is None:
            return structure
        return Structure(structure.number, self.record(spec.adapter, tokenizer).traits)

    def state(self, spec: ViewSpec, tokenizer: Any) -> ModelState:
        """The state that a view's values depend on; the same object while nothing of it differs."""
        structure, base = self.structure(tokenizer), self.base_key(tokenizer)
        name, traits, key = spec.adapter, structure.traits, base
        if name is not None:
            record = self.record(name, tokenizer)
            traits, key = record.traits, digest_of([b"of adapter", base, record.content])
        known = self._states.get(name)
        facts = structure, traits, key
        if known is None or known[:3] != facts:
            known = *facts, ModelState(Structure(structure.number, traits), key)
            self._states[name] = known
        state: ModelState = known[3]
        return state

    def lasting_key(self, spec: ViewSpec, tokenizer: Any) -> bytes | None:
        """As of ``ModelIdentity``, for the state that a view's values depend on."""
        with self.base_identity() as identity:
            # As of a backend without adapters.
            base: bytes | None = identity.lasting_key(tokenizer, without_adapter=True)
        if base is None or spec.adapter is None:
            return base
        record = self.record(spec.adapter, tokenizer)
        if record.why_not_lasting is not None:
            return None
        return digest_of([b"of adapter", base, record.content])

    def body_key(self, spec: ViewSpec, tokenizer: Any) -> bytes:
        """32 bytes for what gives the head of a view its hidden states."""
        self.base_key(tokenizer)
        with self.base_identity() as identity:
            base: bytes = identity.body(tokenizer).key
        if spec.adapter is None:
            return base
        content = self.record(spec.adapter, tokenizer).body_content
        return digest_of([b"body of adapter", base, content])

    def lasting_body_key(self, spec: ViewSpec, tokenizer: Any) -> bytes | None:
        """As ``lasting_key``, for the same."""
        with self.base_identity() as identity:
            base: bytes | None = identity.lasting_body_key(tokenizer, without_adapter=True)
        if base is None or spec.adapter is None:
            return base
        record = self.record(spec.adapter, tokenizer)
        if record.why_not_lasting is not None:
            return None
        return digest_of([b"body of adapter", base, record.body_content])

    def why_not_lasting(self, spec: ViewSpec, tokenizer: Any) -> str | None:
        """As of ``ModelIdentity``."""
        with self.base_identity() as identity:
            why: str | None = identity.why_not_lasting(tokenizer)
        if why is None and spec.adapter is not None:
            why = self.record(spec.adapter, tokenizer).why_not_lasting
        return why

    def is_outside(self, specs: Sequence[ViewSpec], tokenizer: Any) -> bool:
        """Whether any of these views' adapters has a part outside the model's body."""
        names = dict.fromkeys(spec.adapter for spec in specs if spec.adapter is not None)
        return any(self.record(name, tokenizer).is_outside for name in names)

    def base_words(self, tokenizer: Any) -> Words | None:
        """As of ``AdapterRecord``, for the base model."""
        with self.base_identity() as identity:
            identity.structure(tokenizer)
            return identity.structure_words()

    def _first_of(self, name: str, tokenizer: Any) -> str:
        """The first name for what ``name`` holds."""
        content = self.content_known(name, tokenizer)
        if content is None:
            return name
        own = self.record(name, tokenizer).content
        for each in self.names[: self.names.index(name)]:
            # A closer look only at what is likely to be the same.
            is_likely = self.content_known(each, tokenizer) == content
            if is_likely and self.record(each, tokenizer).content == own:
                return each
        return name


__all__ = ["AdapterRecord", "Adapters", "Words", "recorded"]

"""A loaded model under its views: its lock, its identity, and how text becomes its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from forwardcache.adapter_names import adapter_of
from forwardcache.errors import ForwardCacheError, UnsupportedModelError
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.model.adapter_parts import is_switched_outside
from forwardcache.hf.model.adapters import Adapters
from forwardcache.hf.model.identity import ModelIdentity, ModelState, Policy, Structure
from forwardcache.hf.model.lock import ModelLock, lock_of
from forwardcache.hf.model.switch import switched
from forwardcache.hf.scoring.admissions import Admissions, NamedAdmissions
from forwardcache.hf.spec import BASE, FINETUNED, ViewSpec
from forwardcache.hf.text.chat import framed
from forwardcache.hf.text.encode import Encoder, EncodingOptions, Form
from forwardcache.hf.text.tokens import refuse_drawing
from forwardcache.operation import Operation
from forwardcache.operations import operation


class LoadedModel:
    """What can be asked of a model in a view without scoring anything.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
        tokenizer: Its tokenizer.
        runner: Runs its forward.
        options: How text becomes tokens.
        identity: Tells states of the model apart, as it stands.

    Attributes:
        adapters: The adapters that have names; None where there are none such.
    """

    def __init__(
        self,
        model: nn.Module,
        causal_lm: Any,
        tokenizer: Any,
        *,
        runner: ForwardRunner,
        options: EncodingOptions,
        identity: ModelIdentity,
    ) -> None:
        self._standing = model
        self._entered_model: nn.Module | None = None
        self.adapters: Adapters | None = None
        self._named_admissions: NamedAdmissions | None = None
        self.causal_lm = causal_lm
        self.tokenizer = tokenizer
        self.runner = runner
        self.options = options
        self.lock: ModelLock = lock_of(causal_lm)
        self.identity = identity
        self.admissions = Admissions(model, causal_lm, runner, identity)
        self._encoder: tuple[int, Encoder] | None = None
        self._positions: tuple[int, int | None] | None = None
        self._warned: set[str] = set()

    @property
    def model(self) -> Any:
        """What is called: while a view runs with its adapter on it, else as it stands."""
        return self._standing if self._entered_model is None else self._entered_model

    def name(self, adapters: Adapters) -> None:
        """Lets views be of adapters by their names."""
        self.adapters = adapters
        self._named_admissions = NamedAdmissions(
            adapters, self.causal_lm, self.runner, self.entered
        )

    def names_outside(self) -> frozenset[str]:
        """The adapters with names that have a part outside the model's body."""
        if self.adapters is None:
            return frozenset()
        with self.lock:
            found = [
                name
                for name in self.adapters.names
                if self.adapters.record(name, self.tokenizer).is_outside
            ]
        return frozenset(found)

    def check(self, spec: ViewSpec | None) -> None:
        """Refuses a view that this model can't give exactly."""
        with self.lock:
            self.runs_as(spec)

    # --- the caller holds the lock from here on -------------------------------------------------

    def resolved(self, spec: ViewSpec) -> ViewSpec:
        """``spec`` with the name of its adapter, where adapters have names.

        Raises:
            InvalidInputError: no adapter is called so, or there are several and it says none.
        """
        names: tuple[str, ...] = ()
        takes_none = True
        if self.adapters is not None:
            names, takes_none = self.adapters.names, not self.adapters.needs_name
        elif spec.adapter is None:
            return spec
        if spec == BASE or (takes_none and spec.adapter is None):
            return spec
        return replace(spec, adapter=adapter_of(spec.adapter, names, view=spec.view_id))

    def named(self, spec: ViewSpec) -> Adapters | None:
        """Whose view it is where adapters have names; None for one of the model as it stands."""
        return self.adapters if spec.adapter is not None or spec == BASE else None

    def runs_as(self, spec: ViewSpec | None) -> ViewSpec:
        """The view that is run for ``spec``.

        Raises:
            AdapterError: it needs an adapter and there is none, or is of one among several.
            UnsupportedModelError: the model can't give it exactly.
        """
        if self.adapters is not None:
            spec = self._standing_spec() if spec is None else self.resolved(spec)
            if (named := self.named(spec)) is not None:
                return named.checked(spec, self.tokenizer)
        return checked_spec(self.identity.structure(self.tokenizer), spec)

    def state(self, spec: ViewSpec) -> ModelState:
        """The state that the values of a view depend on."""
        if self.adapters is not None and (named := self.named(spec)) is not None:
            return named.state(spec, self.tokenizer)
        return self.identity.state(self.tokenizer)

    def begun(self, spec: ViewSpec | None) -> tuple[ViewSpec, ModelState]:
        """What ``runs_as`` and ``state`` give; of a model whose adapters have no names by one look.

        Raises:
            AdapterError: as of ``runs_as``.
            UnsupportedModelError: likewise.
        """
        if self.adapters is None:
            state = self.identity.state(self.tokenizer)
            return checked_spec(state.structure, spec), state
        runs = self.runs_as(spec)
        return runs, self.state(runs)

    def lasting_key(self, spec: ViewSpec) -> bytes | None:
        """32 bytes that this state has in every process; None if there are none."""
        if self.adapters is not None and (named := self.named(spec)) is not None:
            return named.lasting_key(spec, self.tokenizer)
        # The base model's values don't depend on what the adapter holds.
        return self.identity.lasting_key(self.tokenizer, without_adapter=spec == BASE)

    def why_not_lasting(self, spec: ViewSpec) -> str | None:
        """Why there are none; None if there are."""
        if self.adapters is not None and (named := self.named(spec)) is not None:
            return named.why_not_lasting(spec, self.tokenizer)
        return self.identity.why_not_lasting(self.tokenizer)

    @contextmanager
    def entered(self, spec: ViewSpec) -> Iterator[nn.Module]:
        """The model in a view that ``runs_as`` gave; as it was before, afterwards."""
        with self.put_on(spec) as model, switched(model, spec):
            yield model

    @contextmanager
    def put_on(self, spec: ViewSpec) -> Iterator[nn.Module]:
        """The model with a view's adapter on it, not switched to the view."""
        if self.adapters is None or (named := self.named(spec)) is None:
            yield self._standing
            return
        with named.on(spec.adapter, self.tokenizer) as model:
            before = self._entered_model, self.runner.model
            self._entered_model = self.runner.model = model
            try:
                yield model
            finally:
                self._entered_model, self.runner.model = before

    def heads_differ(self, specs: Sequence[ViewSpec]) -> bool:
        """Whether anything that differs between these views lies outside the model's body."""
        body = self.runner.body
        named = [spec for spec in specs if self.adapters is not None and self.named(spec)]
        if self.adapters is not None and self.adapters.is_outside(named, self.tokenizer):
            return True
        return len(named) < len(specs) and is_switched_outside(self._standing, body)

    def are_loaded_in_turn(self, specs: Sequence[ViewSpec]) -> bool:
        """Whether views are of more adapters than are in memory at once."""
        most = None if self.adapters is None else self.adapters.most_in_memory
        names = {spec.adapter for spec in specs if spec.adapter is not None}
        return most is not None and len(names) > most

    def forget_adapters(self) -> None:
        """Lets go of the adapters that have names; there are none from here on."""
        self.adapters = self._named_admissions = None

    def admitted(self, spec: ViewSpec, structure: Structure | None = None) -> Ways:
        """What the model in a view is let do.

        Args:
            spec: The view.
            structure: The present structure, where it is known already.

        Raises:
            UnsupportedModelError: it can't run on token ids alone.
        """
        structure = structure or self.identity.structure(self.tokenizer)
        most = self._positions_in(structure)
        if self._named_admissions is not None and self.named(spec) is not None:
            return self._named_admissions.ways(structure, spec, most, self.tokenizer)
        return self.admissions.ways(structure, spec, most)

    # --- it doesn't -----------------------------------------------------------------------------

    def ways_in(self, spec: ViewSpec) -> Ways:
        """As ``admitted``, in the present structure."""
        with self.lock:
            return self.admitted(self.runs_as(spec))

    def admit(self, *, skips: bool = False) -> dict[str, str]:
        """Looks at the model as it stands, and below its adapter where that view is exact.

        Args:
            skips: Whether adapters with names that can't be used are left out, unless none is left.

        Returns:
            By name of an adapter that was left out: why.

        Raises:
            UnsupportedModelError: as in ``admitted``.
            AdapterError: an adapter can't be used and isn't left out.
        """
        left_out: dict[str, str] = {}
        with self.lock:
            structure = self.identity.structure(self.tokenizer)
            for spec in dict.fromkeys((*self.standing_specs(), BASE)):
                if spec.adapter is None and structure.traits.gives(spec):
                    self.admitted(spec)
            if self.adapters is not None and self.adapters.needs_name:
                self._admit_each(self.adapters, left_out if skips else None)
        return left_out

    def _admit_each(self, adapters: Adapters, left_out: dict[str, str] | None) -> None:
        with adapters.looked_over():
            for name in adapters.names:
                try:
                    spec = replace(FINETUNED, adapter=name)
                    adapters.structure_in(spec, self.tokenizer).traits.check(spec)
                    self.admitted(spec)
                except ForwardCacheError as error:
                    if left_out is None or adapters.names == (name,):
                        raise type(error)(f"adapter {name!r}: {error}") from None
                    left_out[name] = str(error)
                    adapters.leave_out(name)

    def operation(self, name: str, **options: Any) -> Operation:
        """The operation of that name; whether in windows, the model's options say if nobody else.

        Raises:
            InvalidInputError: there is no such operation.
        """
        return operation(name).of(**{"windows": self.options.windows, **options})

    def token_lengths(self, form: Form, items: Sequence[Any]) -> list[int | ForwardCacheError]:
        """Tokens that the model would read for each item, or the error that it would get."""
        with self.lock:
            encoder = self._encoder_for(self.identity.structure(self.tokenizer))
            each_encoded = encoder.encode_each(form, items)
            return [each if isinstance(each, Exception) else len(each.fed) for each in each_encoded]

    def encoded(
        self, form: Form, items: Sequence[Any], *, any_length: bool = False
    ) -> list[Encoded | ForwardCacheError]:
        """The tokens of each item, or the error that it would get.

        Args:
            form: What the items are.
            items: Of any type.
            any_length: Whether more tokens than the model has positions for are no error.
        """
        with self.lock:
            encoder = self._encoder_for(self.identity.structure(self.tokenizer))
            if any_length:
                encoder = self._new_encoder(None)
            return list(encoder.encode_each(form, items))

    def framed(self, form: Form, items: Sequence[Any]) -> list[Any]:
        """Each item with its prompt as the chat template writes it now, or its error."""
        with self.lock:
            encoder = self._encoder_for(self.identity.structure(self.tokenizer))
            return [framed(item, partial(encoder.framed, form)) for item in items]

    def check_encoding(self) -> None:
        """Refuses options of the text that can't be used with this tokenizer and model."""
        with self.lock:
            self._encoder_for(self.identity.structure(self.tokenizer)).check()

    def run_in(self, spec: ViewSpec | None, work: Callable[[Encoder], Any]) -> Any:
        """Calls ``work`` with the model in a view, past the cache.

        Raises:
            UnsupportedModelError: the view can't be exact.
        """
        with self.lock:
            runs = self.runs_as(spec)
            self.runner.ways = self.admitted(runs)
            structure = self.identity.structure(self.tokenizer)
            with self.entered(runs), torch.inference_mode():
                return work(self._encoder_for(structure))

    def weights_changed(self) -> None:
        """Begins a new state of the model."""
        with self.lock:
            self.identity.weights_changed()
            if self.adapters is not None:
                self.adapters.weights_changed()

    def identity_key(self) -> bytes:
        """Key of the model's present state."""
        with self.lock:
            return self.standing_key()

    def standing_key(self) -> bytes:
        """The same; the caller holds the lock."""
        if self.adapters is not None:
            return self.adapters.base_key(self.tokenizer)
        return self.identity.state(self.tokenizer).key

    def identity_policy(self) -> Policy:
        """How changes of the weights are noticed at present."""
        with self.lock:
            return self.identity.policy(self.tokenizer)

    def own_spec(self) -> ViewSpec:
        """The view that the model itself is: ``ft`` with an adapter, else ``base``."""
        with self.lock:
            return self._standing_spec()

    def own_specs(self) -> tuple[ViewSpec, ...]:
        """The views that the model itself may be: of several adapters with names, each one's."""
        with self.lock:
            return self.standing_specs()

    def _standing_spec(self) -> ViewSpec:
        specs = self.standing_specs()
        return specs[0] if len(specs) == 1 else self.resolved(FINETUNED)

    def standing_specs(self) -> tuple[ViewSpec, ...]:
        """As ``own_specs``; the caller holds the lock."""
        if self.adapters is not None and self.adapters.needs_name:
            return tuple(replace(FINETUNED, adapter=name) for name in self.adapters.names)
        return (own_spec_of(self.identity.structure(self.tokenizer)),)

    def _positions_in(self, structure: Structure) -> int | None:
        if self._positions is None or self._positions[0] != structure.number:
            self._positions = (structure.number, max_positions(self.causal_lm))
        return self._positions[1]

    def _encoder_for(self, structure: Structure) -> Encoder:
        if self._encoder is None or self._encoder[0] != structure.number:
            refuse_drawing(self.tokenizer)
            encoder = self._new_encoder(self._positions_in(structure))
            self._encoder = (structure.number, encoder)
        return self._encoder[1]

    def _new_encoder(self, positions: int | None) -> Encoder:
        return Encoder(
            self.tokenizer,
            self.options,
            positions,
            self.runner.vocab_size,
            embedding_rows=self.runner.embedding_rows,
            warned=self._warned,
        )


def dtype_name(model: Any) -> str:
    """A model's dtype without torch's name before it, such as "bfloat16"."""
    return str(model.dtype).removeprefix("torch.")


def own_spec_of(structure: Structure) -> ViewSpec:
    """The view that a model itself is: ``base`` also where its adapter is turned off.

    Raises:
        UnsupportedModelError: only a part of the adapter is turned off, which no view is.
    """
    traits = structure.traits
    if traits.present and traits.disabled == "some":
        raise UnsupportedModelError(
            "some of the adapter's layers are turned off and others are not, which is no view; "
            "turn all of them off or on, or ask for a view"
        )
    return FINETUNED if traits.present and traits.disabled == "none" else BASE


def checked_spec(structure: Structure, spec: ViewSpec | None) -> ViewSpec:
    """The view that is run for ``spec``."""
    runs = own_spec_of(structure) if spec is None else spec.canonical()
    structure.traits.check(runs)
    return runs

"""A loaded model under its views: its lock, its identity, and how text becomes its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from forwardcache.errors import ForwardCacheError, UnsupportedModelError
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.model.identity import ModelIdentity, Policy, Structure
from forwardcache.hf.model.lock import ModelLock, lock_of
from forwardcache.hf.model.switch import switched
from forwardcache.hf.scoring.admissions import Admissions
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
        identity: Tells states of the model apart.
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
        self.model = model
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

    def check(self, spec: ViewSpec | None) -> None:
        """Refuses a view that this model can't give exactly."""
        with self.lock:
            checked_spec(self.identity.structure(self.tokenizer), spec)

    def admitted(self, structure: Structure, spec: ViewSpec) -> Ways:
        """What the model in a view is let do; the caller holds the lock.

        Raises:
            UnsupportedModelError: it can't run on token ids alone.
        """
        return self.admissions.ways(structure, spec, self._positions_in(structure))

    def ways_in(self, spec: ViewSpec) -> Ways:
        """As ``admitted``, in the present structure."""
        with self.lock:
            return self.admitted(self.identity.structure(self.tokenizer), spec)

    def admit(self) -> None:
        """Looks at the model as it stands, and below its adapter where that view is exact.

        Raises:
            UnsupportedModelError: as in ``admitted``.
        """
        with self.lock:
            structure = self.identity.structure(self.tokenizer)
            for spec in dict.fromkeys((own_spec_of(structure), BASE)):
                if structure.traits.gives(spec):
                    self.admitted(structure, spec)

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
            structure = self.identity.structure(self.tokenizer)
            runs = checked_spec(structure, spec)
            self.runner.ways = self.admitted(structure, runs)
            with switched(self.model, runs), torch.inference_mode():
                return work(self._encoder_for(structure))

    def weights_changed(self) -> None:
        """Begins a new state of the model."""
        with self.lock:
            self.identity.weights_changed()

    def identity_key(self) -> bytes:
        """Key of the model's present state."""
        with self.lock:
            return self.identity.state(self.tokenizer).key

    def identity_policy(self) -> Policy:
        """How changes of the weights are noticed at present."""
        with self.lock:
            return self.identity.policy(self.tokenizer)

    def own_spec(self) -> ViewSpec:
        """The view that the model itself is: ``ft`` with an adapter, else ``base``."""
        with self.lock:
            return own_spec_of(self.identity.structure(self.tokenizer))

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

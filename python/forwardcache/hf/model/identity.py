"""Whether the model and the tokenizer are still those that a cached value came from.

What a state's key is made of is the *policy*:

=============  =====================================================================================
``versions``   a number that rises whenever a tensor's object, memory or version counter differs,
               an optimizer anywhere has made a step, or the sum over an adapter's memory differs
``strict``     a checksum of what all tensors hold, read again at every look
``label``      the caller's name for what the tensors hold
=============  =====================================================================================

In all of them the structure counts too (``watch``): modules, adapters and their scaling, dtypes,
configuration, hooks, tokenizer, precision. Where version counters can't be relied on, ``versions``
looks as ``strict`` does: parameters of the base model that require a gradient, a module in training
mode, tensors made in inference mode. Where CPython and torch allow it a look takes microseconds and
sees the same (``look``, ``layout``).

An adapter's memory is summed at every look under ``versions``, so any write to it is seen at the
next one: through ``.data``, numpy, a file that is read into it. From 1 MiB on it isn't summed again
while a kernel of Linux since 6.7 says that no page of it was written to (``checksum``), once it was
the same for two seconds and only in private memory of no file. A device, or a direct read, that
began to write before that and ends more than a second later is not seen then.

What each doesn't see: ``versions``, writes to base weights and buffers through ``.data``, numpy or
another process; ``label``, any change of what tensors hold. None sees a hook that changes its mind,
another value in a module's own attribute, or a Rust tokenizer whose vocabulary was rewritten in
place at the same size. ``ModelIdentity.weights_changed`` is there for those.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import Any, Literal, get_args

from torch import Tensor, nn

from forwardcache.errors import InvalidInputError
from forwardcache.hf.model.adapter import AdapterTraits, traits_of
from forwardcache.hf.model.body import Body, BodyVersions, parts_of
from forwardcache.hf.model.checksum import checksums, digest_of
from forwardcache.hf.model.optimizer_steps import OptimizerSteps
from forwardcache.hf.model.settings import numerics
from forwardcache.hf.model.tokenizer_watch import TokenizerWatch, described_tokenizer
from forwardcache.hf.model.versions import VersionWatch, needs_gradient
from forwardcache.hf.model.watch import ModelWatch, described, described_adapters

Policy = Literal["versions", "strict", "label"]

# Hashing less than this at every call is not worth a warning.
_WARNED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Structure:
    """How the model and the tokenizer are built, apart from what the tensors hold.

    Attributes:
        number: Rises whenever anything about it changed.
        traits: What the adapter allows.
    """

    number: int
    traits: AdapterTraits


@dataclass(frozen=True, slots=True)
class ModelState:
    """The model and the tokenizer as they were at one moment.

    Attributes:
        structure: How they were built.
        key: 32 bytes that no other state has. Under ``strict`` and ``label`` another process gives
            the same state the same bytes, unless hooks or a tokenizer without a description are in
            it; under ``versions`` no other identity ever gives them.
    """

    structure: Structure
    key: bytes

    @property
    def traits(self) -> AdapterTraits:
        """What the adapter allows."""
        return self.structure.traits


class ModelIdentity:
    """Tells states of one model and its tokenizer apart.

    Every method is called with the model's lock held: in the middle of another thread's forward the
    model is in some view, which is not a change.

    Args:
        model: What is called.
        policy: How far it looks.
        label: Under ``label``, the name of what the tensors hold.

    Raises:
        InvalidInputError: there is no such policy, or a label is missing or given to another one.
    """

    def __init__(
        self, model: nn.Module, policy: Policy = "versions", *, label: str | None = None
    ) -> None:
        _check_policy(policy, label)
        self._model = model
        self._policy = policy
        self._label = label
        # Two identities of one process or of two share nothing; a random token says so.
        self._token = os.urandom(16)
        self._steps = OptimizerSteps.watch(self)
        self._numbers = itertools.count()
        self._announced = 0
        self._watch: ModelWatch | None = None
        self._watched_tokenizer: TokenizerWatch | None = None
        self._numerics: tuple[Any, ...] = ()
        self._structure: Structure | None = None
        self._description: bytes | None = None
        self._adapter_description = b""
        self._undescribed: str | None = None
        self._is_base: list[bool] = []
        self._is_wrapped: list[bool] = []
        self._rising: set[int] = set()
        self._has_inference_tensors = False
        self._versions: VersionWatch | None = None
        self._versions_key = b""
        self._state: ModelState | None = None
        self._has_warned = False
        self._lasting: tuple[bytes, tuple[bytes, ...] | None] | None = None
        self._body: Body | None = None
        self._body_versions = BodyVersions()

    def state(self, tokenizer: Any) -> ModelState:
        """The present state; the same object as long as nothing differs from the last look.

        Raises:
            UnsupportedModelError: the adapter is of a kind whose views are not known to be exact.
        """
        structure, tensors = self._current(tokenizer)
        key = self._key(tokenizer, tensors)
        known = self._state
        if known is None or known.key != key or known.structure is not structure:
            self._state = known = ModelState(structure, key)
        return known

    def lasting_key(self, tokenizer: Any, *, without_adapter: bool) -> bytes | None:
        """32 bytes that the present state has in every process; None if there are none.

        Except under ``label`` the tensors are hashed for it once a state, under ``versions`` too.
        There are none with hooks, with a tokenizer that can't be described, where a module keeps
        something that can't be read, and after ``weights_changed``, which speaks of changes that no
        other process could see either: ``why_not_lasting`` says which.

        Args:
            tokenizer: The tokenizer.
            without_adapter: Whether what the adapter's tensors hold is left out; that there is one,
                and of what shape, is not.

        Raises:
            UnsupportedModelError: as in ``state``.
        """
        state = self.state(tokenizer)
        if self._lasting is None or self._lasting[0] != state.key:
            self._lasting = state.key, self._lasting_keys(state, tokenizer)
        keys = self._lasting[1]
        return None if keys is None else keys[without_adapter]

    def body(self, tokenizer: Any) -> Body:
        """The present state of the body: all of the model but its head. Knows no tokenizer.

        Raises:
            UnsupportedModelError: as in ``state``.
        """
        state = self.state(tokenizer)
        if self._body is None or self._body.state is not state:
            self._body = self._new_body(state, tokenizer)
        return self._body

    def lasting_body_key(self, tokenizer: Any, *, without_adapter: bool) -> bytes | None:
        """As ``lasting_key``, of the body."""
        self.lasting_key(tokenizer, without_adapter=without_adapter)
        keys = None if self._lasting is None else self._lasting[1]
        return None if keys is None else keys[2 + without_adapter]

    def why_not_lasting(self, tokenizer: Any) -> str | None:
        """Why the present state has no key that lasts; None if it has one."""
        self.state(tokenizer)
        self._describe(tokenizer)
        if self._announced:
            return "weights_changed() was called, and no other process could see that change"
        return self._undescribed or self._unreadable(tokenizer)

    def why_unknown(self, tokenizer: Any) -> str | None:
        """What of the model nothing can be said about in words; None for nothing.

        Raises:
            UnsupportedModelError: as in ``state``.
        """
        self.structure(tokenizer)
        unknown = None if self._watch is None else self._watch.unknown_code
        return unknown or self._unreadable(tokenizer)

    def _unreadable(self, tokenizer: Any) -> str | None:
        watch = self._watch
        if self._policy == "label" or watch is None or not watch.saves_itself:
            return None
        tensors = self._tensors(tokenizer)
        if watch.saved(tensors, packed=True) is not None:
            return None
        return "a module saves something of its own that can't be read"

    def _lasting_keys(self, state: ModelState, tokenizer: Any) -> tuple[bytes, ...] | None:
        """With the adapter and without it; then those of the body, likewise."""
        self._describe(tokenizer)
        if self._announced or self._undescribed or self._description is None:
            return None
        body = self.body(tokenizer)
        if self._policy == "label":
            return state.key, state.key, body.key, body.key
        tensors = self._tensors(tokenizer)
        saved = self._saved(tensors, packed=True)
        if saved is None:
            return None
        sums = checksums(tensors)
        base = [self._description, *saved, *compress(sums, self._is_base)]
        every = [self._description, self._adapter_description, *saved, *sums]
        return (
            *(digest_of([b"all", *every]), digest_of([b"base", *base])),
            *body.lasting_keys(saved, sums, self._is_base),
        )

    def _new_body(self, state: ModelState, tokenizer: Any) -> Body:
        watch, tensors = self._watch, self._tensors(tokenizer)
        assert watch is not None
        code = repr(watch.code).encode("utf-8", "surrogatepass")
        parts = parts_of(self._model)
        said = [repr(self._numerics).encode(), code, *parts.described(self._model)]
        adapters = digest_of(parts.described_adapters(self._model))
        body = Body(state, parts, parts.is_body(watch.slots), digest_of(said), adapters)
        words = [body.words, body.adapter_words, self._token, b"%d" % self._announced]
        if watch.has_unknown_code:
            # A hook may do anything, wherever it is.
            words.append(b"%d" % state.structure.number)
        elif not self._announced:
            del words[2:]
        if self._policy == "label":
            return body.keyed([b"label", *words, str(self._label).encode()])
        hashes = self._policy == "strict" or self._must_hash(tensors)
        words += self._saved(tensors, packed=hashes) or []
        if hashes:
            self._body_versions.forget()
            return body.keyed([b"strict", *words, *checksums(compress(tensors, body.is_inside))])
        flags = body.is_inside, self._is_base, self._is_wrapped
        number = self._body_versions.number(words, tensors, self._steps.count, flags)
        return body.keyed([b"versions", self._token, b"%d" % number])

    def _saved(self, tensors: list[Tensor], *, packed: bool) -> list[bytes] | None:
        """What modules save in ways of their own, nothing for most models; None if unreadable."""
        if self._watch is None or not self._watch.saves_itself:
            return []
        saved = self._watch.saved(tensors, packed=packed)
        return None if saved is None else [saved]

    def structure(self, tokenizer: Any) -> Structure:
        """The present structure; no tensor is looked at.

        Raises:
            UnsupportedModelError: as in ``state``.
        """
        return self._current(tokenizer)[0]

    def _current(self, tokenizer: Any) -> tuple[Structure, list[Tensor] | None]:
        """The present structure, with the tensors that a look at it went over anyway."""
        tensors = self._unchanged(tokenizer)
        if self._structure is None or tensors is None:
            self._structure, tensors = self._begin(tokenizer), None
        return self._structure, tensors

    def structure_words(self) -> tuple[bytes, bool] | None:
        """What is the same for every model that is built as this one, hooks apart.

        The structure was looked at before.

        Returns:
            32 bytes, and whether they say everything: hooks may do anything. None where replaced
            code runs about which nothing is known.
        """
        if self._watch is None or self._watch.has_replaced_code:
            return None
        code = repr(self._watch.code).encode("utf-8", "surrogatepass")
        model = [*described(self._model), *described_adapters(self._model)]
        words = digest_of([*model, repr(self._numerics).encode(), code])
        return words, not self._watch.has_unknown_code

    def policy(self, tokenizer: Any) -> Policy:
        """The policy in effect: ``versions`` may have become ``strict``."""
        if self._policy == "versions":
            self.structure(tokenizer)
            return "strict" if self._must_hash(self._tensors(tokenizer)) else "versions"
        return self._policy

    def weights_changed(self) -> None:
        """Begins a new state and a new structure, for changes that nothing here can see."""
        self._announced += 1
        self._versions = None
        # The number of the structure also says which tokens may be remembered.
        self._structure = self._watch = None

    def let_rise(self, tensors: Sequence[Tensor]) -> None:
        """Says that forwards with an adapter that comes and goes give these a newer version.

        What they hold then decides whether they are the same, as it does while such an adapter is
        there (``Slot.is_wrapped``).
        """
        if self._rising.issuperset(new := set(map(id, tensors))):
            return
        self._rising |= new
        if (watch := self._watch) is None:
            return
        seen = watch.tensors()
        if len(seen) != len(self._is_base):
            self._watch = None
            return
        self._is_wrapped = self._wrapped_in(watch)
        steps = self._steps.count
        if self._versions is not None:
            saved = self._saved(seen, packed=False) or []
            self._versions.let_rise(seen, steps, saved, self._is_wrapped)
        if self._body is not None:
            self._body_versions.let_rise(seen, steps, self._body.is_inside, self._is_wrapped)

    def _wrapped_in(self, watch: ModelWatch) -> list[bool]:
        pairs = zip(watch.slots, watch.tensors(), strict=True)
        return [slot.is_wrapped or id(tensor) in self._rising for slot, tensor in pairs]

    def _unchanged(self, tokenizer: Any) -> list[Tensor] | None:
        """The model's tensors, if its structure is the one that was looked at; else None."""
        known = self._watched_tokenizer
        if self._watch is None or known is None or not known.holds(tokenizer):
            return None
        return self._watch.unchanged() if numerics() == self._numerics else None

    def _begin(self, tokenizer: Any) -> Structure:
        # Nothing of this is kept if the adapter is refused: the next call looks again.
        earlier, known = self._watch, self._watched_tokenizer
        self._watch = None
        traits, watch, precision = traits_of(self._model), ModelWatch(self._model), numerics()
        is_same = (
            self._structure is not None
            and earlier is not None
            and watch.is_same_as(earlier)
            and known is not None
            and known.holds(tokenizer)
            and precision == self._numerics
        )
        self._watch, self._numerics = watch, precision
        self._watched_tokenizer = TokenizerWatch(tokenizer)
        if is_same and self._structure is not None:
            same = self._structure
            # Layers that are turned off are another view of the same model.
            return same if traits == same.traits else Structure(same.number, traits)
        self._is_base = [slot.is_base for slot in watch.slots]
        self._is_wrapped = self._wrapped_in(watch)
        self._has_inference_tensors = any(map(Tensor.is_inference, watch.tensors()))
        self._description = self._versions = None
        return Structure(next(self._numbers), traits)

    def _key(self, tokenizer: Any, tensors: list[Tensor] | None) -> bytes:
        if self._policy == "label":
            return digest_of([b"label", self._describe(tokenizer), str(self._label).encode()])
        if tensors is None:
            tensors = self._tensors(tokenizer)
        elif self._stands(tensors):
            return self._versions_key
        if self._policy == "strict" or self._must_hash(tensors):
            # Writes may have gone unseen by the time that versions count again.
            self._versions = None
            self._warn(tensors)
            saved = self._saved(tensors, packed=True) or []
            return digest_of([b"strict", self._describe(tokenizer), *saved, *checksums(tensors)])
        saved = self._saved(tensors, packed=False) or []
        seen = tensors, self._steps.count, saved
        if self._versions is None or not self._versions.holds(*seen):
            adapted = list(compress(tensors, map(not_, self._is_base)))
            self._versions = VersionWatch(
                *seen, adapted=adapted, wrapped=self._is_wrapped, frozen=self._is_base
            )
            number = str(next(self._numbers)).encode()
            self._versions_key = digest_of([b"versions", self._token, number])
        return self._versions_key

    def _stands(self, tensors: list[Tensor]) -> bool:
        """Whether versions count, and a look of microseconds finds them as they were."""
        watch, versions = self._watch, self._versions
        return (
            watch is not None
            and versions is not None
            and not watch.saves_itself
            and not watch.is_training()
            and versions.stands(tensors, self._steps.count)
        )

    def _tensors(self, tokenizer: Any) -> list[Tensor]:
        while True:
            tensors = [] if self._watch is None else self._watch.tensors()
            if len(tensors) == len(self._is_base):
                return tensors
            # Something of the model was deleted since the structure was looked at.
            self.structure(tokenizer)

    def _describe(self, tokenizer: Any) -> bytes:
        if self._description is None:
            self._description = digest_of(self._description_fields(tokenizer))
            self._adapter_description = digest_of(described_adapters(self._model))
        announced = [self._token, str(self._announced).encode()] if self._announced else []
        return digest_of([self._description, self._adapter_description, *announced])

    def _description_fields(self, tokenizer: Any) -> list[bytes]:
        words = described_tokenizer(tokenizer)
        code = () if self._watch is None else self._watch.code
        fields = [*described(self._model), repr(self._numerics).encode(), *(words or ())]
        fields.append(repr(code).encode("utf-8", "surrogatepass"))
        self._undescribed = "the model went" if self._watch is None else self._watch.unknown_code
        if words is None:
            kind = type(tokenizer).__name__
            self._undescribed = f"the tokenizer ({kind}) has nothing that describes it"
        if self._undescribed is not None:
            # Nothing can be said about these that would hold in another process.
            fields += [self._token, str(next(self._numbers)).encode()]
        return fields

    def _must_hash(self, tensors: Sequence[Tensor]) -> bool:
        return (
            self._has_inference_tensors
            or (self._watch is not None and self._watch.is_training())
            or True in map(needs_gradient, compress(tensors, self._is_base))
        )

    def _warn(self, tensors: Sequence[Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if self._policy == "versions" and not self._has_warned and size >= _WARNED_BYTES:
            self._has_warned = True
            warnings.warn(
                f"weights that may be trained are hashed at every call ({size / 2**20:.0f} MiB): "
                "use model.eval() and requires_grad_(False) on the base model, or name the weights "
                'with identity="label"',
                stacklevel=2,
            )


def _check_policy(policy: str, label: str | None) -> None:
    if policy not in get_args(Policy):
        raise InvalidInputError(
            f"identity must be one of {', '.join(get_args(Policy))}, got {policy!r}"
        )
    if (policy == "label") != bool(label):
        raise InvalidInputError(
            f'identity_label names the weights under identity="label", and only there; '
            f"got identity={policy!r} and identity_label={label!r}"
        )


__all__ = ["ModelIdentity", "ModelState", "Policy", "Structure"]

"""Which part of a model is its body: all but its head, so that either may change without the other.

The head is the module that ``get_output_embeddings()`` names, with an adapter's layers on it.
Everything else is the body, and so is a tensor that lies in both: an embedding that is tied to the
head. A head that can't be told from the rest (some module of it is also elsewhere in the model, or
it is itself the embedding) is taken for the body's, whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, count
from operator import and_, not_
from typing import Any

from torch import Tensor, nn

from forwardcache.hf.model.adapter_parts import available_adapters, switched_modules
from forwardcache.hf.model.checksum import digest_of
from forwardcache.hf.model.load import causal_lm_of
from forwardcache.hf.model.slots import Slot, walk
from forwardcache.hf.model.versions import VersionWatch
from forwardcache.hf.model.watch import described, described_adapters


@dataclass(frozen=True, slots=True)
class Parts:
    """A model's head and body.

    Attributes:
        head: The head's modules; none where it can't be told from the body.
        name: The head's name as ``walk`` gives it; None where there are none.
        adapts_body: Whether an active adapter has a part in the body.
        adapts_head: Whether one has a part in the head.
    """

    head: frozenset[nn.Module]
    name: str | None
    adapts_body: bool
    adapts_head: bool

    def is_body(self, slots: Sequence[Slot]) -> list[bool]:
        """For each place of a tensor, whether it is the body's."""
        if self.name is None:
            return [True] * len(slots)
        return [not slot.name.startswith(f"{self.name}.") for slot in slots]

    def described(self, model: nn.Module) -> Iterator[bytes]:
        """The body's structure in words that mean the same in every process."""
        return described(model, but=self.head)

    def described_adapters(self, model: nn.Module) -> Iterator[bytes]:
        """The settings of active adapters in the body, in such words."""
        return described_adapters(model, but=self.head)


@dataclass(frozen=True, slots=True)
class Body:
    """A model's body at one moment.

    Attributes:
        state: The state of the model that it was part of.
        parts: Which part it is.
        is_inside: For each place of a tensor, whether it is the body's.
        words: Digest of its structure.
        adapter_words: Digest of the settings of adapters in it.
        key: 32 bytes that no other state of the body has, as those of ``ModelState``. Neither the
            head nor the tokenizer is in it.
    """

    state: Any
    parts: Parts
    is_inside: Sequence[bool]
    words: bytes
    adapter_words: bytes
    key: bytes = b""

    def keyed(self, fields: Sequence[bytes]) -> Body:
        """With the key that these fields make."""
        return replace(self, key=digest_of([b"body", *fields]))

    def lasting_keys(
        self, saved: Sequence[bytes], sums: Sequence[bytes], is_base: Sequence[bool]
    ) -> tuple[bytes, bytes]:
        """Keys that every process gives it: with the adapter's part in it and without.

        Args:
            saved: What modules save in ways of their own.
            sums: A checksum of each tensor.
            is_base: Whether each is the base model's.
        """
        is_body = self.is_inside
        base = compress(sums, map(and_, is_body, is_base))
        every = [self.words, self.adapter_words, *saved, *compress(sums, is_body)]
        return (
            digest_of([b"body all", *every]),
            digest_of([b"body base", self.words, *saved, *base]),
        )


class BodyVersions:
    """Numbers states of the body whose changes torch itself sees."""

    def __init__(self) -> None:
        self._numbers = count()
        self._number = 0
        self._words: list[bytes] = []
        self._watch: VersionWatch | None = None

    def forget(self) -> None:
        """Begins anew: writes may have gone unseen meanwhile."""
        self._watch = None

    def let_rise(
        self,
        tensors: Sequence[Tensor],
        steps: int,
        is_body: Sequence[bool],
        is_wrapped: Sequence[bool],
    ) -> None:
        """As of ``VersionWatch``, of the body's tensors among all of the model's."""
        if self._watch is not None:
            inside = list(compress(tensors, is_body))
            self._watch.let_rise(inside, steps, [], list(compress(is_wrapped, is_body)))

    def number(
        self,
        words: list[bytes],
        tensors: Sequence[Tensor],
        steps: int,
        flags: tuple[Sequence[bool], Sequence[bool], Sequence[bool]],
    ) -> int:
        """The number of the present state; the same as before if nothing of the body changed.

        Args:
            words: What describes it.
            tensors: All of the model's.
            steps: Steps that optimizers have made.
            flags: Of each tensor, whether it is the body's, whether it is the base model's, and
                whether forwards replace it by a newer version.
        """
        is_body, is_base, is_wrapped = flags
        inside = list(compress(tensors, is_body))
        if self._watch is None or words != self._words or not self._watch.holds(inside, steps, []):
            adapted = list(compress(inside, map(not_, compress(is_base, is_body))))
            wrapped = list(compress(is_wrapped, is_body))
            self._watch = VersionWatch(
                inside, steps, [], adapted=adapted, wrapped=wrapped, frozen=[False] * len(inside)
            )
            self._words = words
            self._number = next(self._numbers)
        return self._number


def parts_of(model: nn.Module) -> Parts:
    """Tells a model's head from its body."""
    head = _head_of(model)
    active = [layer for layer in switched_modules(model) if _is_held(layer)]
    names, modules = walk(model)
    name = next((each for each, one in zip(names, modules, strict=True) if one in head), None)
    return Parts(
        head=frozenset(head),
        name=name,
        adapts_body=any(layer not in head for layer in active),
        adapts_head=any(layer in head for layer in active),
    )


def _head_of(model: nn.Module) -> set[nn.Module]:
    causal_lm: Any = causal_lm_of(model)
    head = causal_lm.get_output_embeddings()
    if not isinstance(head, nn.Module):
        return set()
    own = set(head.modules())
    # Whatever else leads to one of them reads it for other ends.
    outside = _reachable(model, but=head)
    is_once = sum(child is head for each in outside for child in _children(each)) == 1
    embedding = causal_lm.get_input_embeddings()
    return own if is_once and not own & outside and embedding in outside else set()


def _reachable(model: nn.Module, *, but: nn.Module) -> set[nn.Module]:
    found, left = {model}, [model]
    while left:
        for child in _children(left.pop()):
            if child is not None and child is not but and child not in found:
                found.add(child)
                left.append(child)
    return found


def _children(module: nn.Module) -> list[nn.Module | None]:
    # With those that are there under several names.
    return list(vars(module)["_modules"].values())


def _is_held(layer: Any) -> bool:
    return bool(available_adapters(layer) & set(layer.active_adapters))


__all__ = ["Body", "BodyVersions", "Parts", "parts_of"]

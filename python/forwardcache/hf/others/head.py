"""A model whose body was let go: its own forward, from given hidden states to logits.

What a model does after its head (soft caps, scales, biases) happens in its own forward. So the
model stays as it is but for its body, whose modules become empty ones. What is left is the head,
with the embedding it may be tied to; between two uses its weights lie in a temporary file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.backend import HFBackend
from forwardcache.hf.batch.body import returning
from forwardcache.hf.model.adapter_parts import is_switched_outside
from forwardcache.hf.model.switch import switched
from forwardcache.hf.others.memory import collect, give_back
from forwardcache.hf.others.spool import Spool
from forwardcache.hf.spec import BASE, ViewSpec

_PROBED = 4


class HeadAlone:
    """The head of a model, and after ``let_go`` all that is left of it.

    Args:
        backend: The model's. After ``let_go`` nothing can be asked of it.

    Attributes:
        name: The model's class.
        device: Where its logits are.
        vocab_size: Logits a position.
    """

    def __init__(self, backend: HFBackend) -> None:
        self._scorer = backend._scorer
        runner = self._scorer.runner
        self._lm = self._scorer.causal_lm
        self._body: nn.Module = runner.body
        self.name = runner.name
        self.device = torch.device(self._lm.device)
        self.vocab_size = runner.vocab_size
        self._differs = is_switched_outside(self._scorer.model, self._body)
        self._outside = self._scorer.names_outside()
        self._weights: dict[int, tuple[Tensor, int]] | None = None
        self._spool = Spool(0)

    def view(self, spec: ViewSpec) -> ViewSpec:
        """The view that the head is run in for one of the model's.

        Raises:
            UnsupportedModelError: its noise is drawn over the whole model, which isn't there then;
                or it is of one of several adapters, and that has a part in the head.
        """
        if spec.adapter is not None and spec.adapter in self._outside:
            raise UnsupportedModelError(
                f"view {spec.view_id} changes the model's head, which can't be held against "
                "another model where adapters have names: give that adapter alone, without one"
            )
        if not self._differs or spec.adapter is not None:
            return BASE
        if spec.kind == "null":
            raise UnsupportedModelError(
                f"view {spec.view_id} is noise on the model's head, which can't be held against "
                "another model"
            )
        return spec

    def logits(self, spec: ViewSpec, kind: type[Any], states: Tensor) -> Tensor:
        """Logits [n, vocab] of final hidden states [n, width]; inside ``loaded``.

        Args:
            spec: The view, as ``view`` gives it.
            kind: The type of the body's output.
            states: On the head's device.
        """
        output = kind(last_hidden_state=states.unsqueeze(0))
        placeholder = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        model = self._scorer.model
        with (
            self._scorer.lock,
            switched(model, spec),
            torch.inference_mode(),
            returning(self._body, output),
        ):
            found: Tensor = model(input_ids=placeholder, use_cache=False).logits
        return found[0]

    def let_go(self, spec: ViewSpec, kind: type[Any], states: Tensor) -> None:
        """Empties the body and moves the head's weights into a file.

        Args:
            spec: A view of those that will be asked for.
            kind: The type of the body's output.
            states: Some of the body's, which show that the head gives the same without it.

        Raises:
            UnsupportedModelError: it doesn't, or needs more than the body's states.
        """
        probe, spec = states[:_PROBED].to(self.device), self.view(spec)
        before = self._tried(spec, kind, probe)
        kept = self._kept()
        _empty(self._body, kept)
        gone: Any = _Gone(self.name)
        # These remember tensors of the body.
        self._scorer.identity = self._scorer.admissions = gone
        self._scorer.forget_adapters()
        self._weights = {
            id(each): (each, self._spool.add(each))
            for each in _tensors(self._scorer.model)
            if id(each) in kept and _is_plain(each)
        }
        collect()
        self._put_away()
        with self.loaded():
            after = self._tried(spec, kind, probe)
        if not torch.equal(before, after):
            raise self._refusal("gives other logits then")

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """While it lasts the head's weights are in memory."""
        if self._weights is None:
            yield
            return
        for weight, number in self._weights.values():
            weight.data = self._spool.get(number).to(self.device)
        try:
            yield
        finally:
            self._put_away()

    def close(self) -> None:
        """Forgets the weights; nothing can be asked after this."""
        self._weights = {}
        self._spool.close()

    def _tried(self, spec: ViewSpec, kind: type[Any], states: Tensor) -> Tensor:
        try:
            return self.logits(spec, kind, states)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise self._refusal("needs more of its body") from error

    def _refusal(self, why: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.name} can't be held against another model: its head is run on hidden states "
            f"alone, and {why}"
        )

    def _kept(self) -> set[int]:
        """Tensors that the head has, those among them that the body has too."""
        inside = set(self._body.modules())
        outside = [each for each in self._scorer.model.modules() if each not in inside]
        head = self._lm.get_output_embeddings()
        owners = chain(outside, head.modules() if isinstance(head, nn.Module) else ())
        return {
            id(tensor)
            for owner in owners
            for tensor in chain(owner._parameters.values(), owner._buffers.values())
            if tensor is not None
        }

    def _put_away(self) -> None:
        for weight, _ in (self._weights or {}).values():
            weight.data = _hollow(weight)
        give_back()


class _Gone:
    """In the place of what tells about a model that was let go."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, _: str) -> Any:
        raise UnsupportedModelError(f"{self._name} was let go: nothing can be asked of it any more")


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Each parameter and buffer once."""
    yield from model.parameters()
    yield from model.buffers()


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is one of numbers: those of quantisers hold others, and are small."""
    return type(tensor) in (Tensor, nn.Parameter) and type(tensor.data) is Tensor


def _hollow(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, type and device that has memory for one number."""
    one = torch.zeros((1,) * tensor.ndim, dtype=tensor.dtype, device=tensor.device)
    return one.expand(tensor.shape)


def _empty(module: nn.Module, kept: set[int]) -> None:
    """Takes all out of ``module`` that holds none of the ``kept`` tensors, by their ids.

    Whole modules go where they can: what quantises keeps weights in attributes of its own.
    """
    for name, child in list(module.named_children()):
        if any(id(tensor) in kept for tensor in _tensors(child)):
            _empty(child, kept)
        else:
            setattr(module, name, nn.Module())
    own = cast("dict[str, Any]", module._parameters)
    for name, parameter in own.items():
        if parameter is not None and id(parameter) not in kept:
            own[name] = nn.Parameter(_hollow(parameter.data), requires_grad=False)
    buffers = cast("dict[str, Any]", module._buffers)
    for name, buffer in buffers.items():
        if buffer is not None and id(buffer) not in kept:
            buffers[name] = _hollow(buffer)

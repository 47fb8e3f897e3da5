"""The noise that a null adapter puts in the place of A and B, drawn from its seed.

A seed means the same noise everywhere: it is drawn on the CPU in float32, whatever the weights are.
Noise last used is kept, so that a seed is drawn once.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from forwardcache.hf.model.adapter_parts import noise_parameters
from forwardcache.hf.model.draws import firsts_on_memory, normal_noise, placed
from forwardcache.hf.model.matched import Match
from forwardcache.hf.spec import ViewSpec

NOISE_MAX_BYTES = 256 * 2**20

Draw = Callable[[ViewSpec, Sequence[Tensor]], list[Tensor]]


def noise_for(model: nn.Module, spec: ViewSpec) -> list[tuple[nn.Parameter, Tensor]]:
    """The parameters that the null adapter ``spec`` replaces, and with what.

    Raises:
        UnsupportedModelError: noise of the adapter's norm is asked for, and can't be had.
    """
    store = _noises.setdefault(model, NoiseStore())
    if not spec.matched:
        # Of an adapter with a name its own: which others are on the model is not in its key.
        parameters = list(noise_parameters(model, active_only=spec.adapter is not None))
        return list(zip(parameters, store.get(spec, _contents(parameters)), strict=True))
    match = Match.of(model, spec.lam)
    weights = _contents(match.parameters)
    noise = store.get(spec, weights, content=match.content, draw=match.drawn)
    return list(zip(match.parameters, noise, strict=True))


def forget_noise(model: nn.Module, spec: ViewSpec) -> None:
    """Lets go of the noise of a view that won't be asked for again."""
    store = _noises.get(model)
    if store is not None:
        store.drop(spec)


def _contents(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.data for parameter in parameters]


class NoiseStore:
    """The noise of the null adapters last used on one model, so that a seed is drawn once.

    Holds ``NOISE_MAX_BYTES`` at most, on the adapter's device; the noise least recently used goes
    first, and noise larger than that is drawn anew each time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(each.nbytes for each in self._kept.values())

    def get(
        self,
        spec: ViewSpec,
        weights: Sequence[Tensor],
        *,
        content: bytes = b"",
        draw: Draw | None = None,
    ) -> list[Tensor]:
        """Noise for each of ``weights``, in their order; for two on one memory it is on one too.

        Args:
            spec: The null view.
            weights: What the noise replaces.
            content: What else than the view and the weights' layout the noise depends on.
            draw: What makes the noise; None for noise of the view's own deviation.
        """
        key = _key(spec)
        layout = [content, *_layout(weights)]
        kept = self._kept.pop(key, None)
        if kept is None or kept.layout != layout:
            kept = _Kept((draw or _drawn)(spec, weights), layout)
        if kept.nbytes <= NOISE_MAX_BYTES:
            self._kept[key] = kept
        while self.nbytes > NOISE_MAX_BYTES:
            self._kept.popitem(last=False)
        return kept.noise

    def drop(self, spec: ViewSpec) -> None:
        """Lets go of a view's noise."""
        self._kept.pop(_key(spec), None)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Noise, and the layout of the weights that it was drawn for."""

    noise: list[Tensor]
    layout: list[Any]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.noise)


def _key(spec: ViewSpec) -> Hashable:
    return spec if spec.matched else (spec.seed, spec.noise_std)


def _drawn(spec: ViewSpec, weights: Sequence[Tensor]) -> list[Tensor]:
    noise: Iterator[Tensor] = normal_noise(spec.seed, weights)
    return placed((each * spec.noise_std for each in noise), weights)


_noises: weakref.WeakKeyDictionary[nn.Module, NoiseStore] = weakref.WeakKeyDictionary()


def _layout(weights: Sequence[Tensor]) -> list[Any]:
    firsts = firsts_on_memory(weights)
    return [
        (each.shape, each.dtype, each.device, first)
        for each, first in zip(weights, firsts, strict=True)
    ]

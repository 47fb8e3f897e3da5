"""Noise with the norm of the trained adapter in each module: what a matched null adapter is.

A and B are normal noise of equal root mean square, scaled so that scaling · B · A has the trained
one's Frobenius norm: for each expert where a parameter has several, and for an embedding in each
token's column, since an adapter that trained a few tokens only would else be held against noise in
all of them. Rounding to the adapter's dtype moves a norm, so the scale is corrected until what was
rounded has it. Rank and shapes are the adapter's; the spectrum within the rank is the noise's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.model.checksum import digest_of
from forwardcache.hf.model.draws import firsts_on_memory, laid, normal_noise, placed
from forwardcache.hf.model.products import Product, products_of
from forwardcache.hf.spec import ViewSpec

TOLERANCE = 1e-3
"""How far the norm of a module may be off, relative to the trained one's."""
_NEAR = TOLERANCE / 4
_CORRECTIONS, _ATTEMPTS = 3, 40


@dataclass(frozen=True, slots=True)
class Match:
    """What noise has to match: the trained norms, as they are now.

    Attributes:
        products: What the active adapter adds.
        parameters: Each A and B, in the model's order.
        targets: For each product the norms that the noise must have; see ``Product.norms``.
    """

    products: list[Product]
    parameters: list[nn.Parameter]
    targets: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module, lam: float) -> Match:
        """The active adapter of ``model``, its norms times ``lam``.

        Raises:
            UnsupportedModelError: a norm is not finite.
        """
        with torch.inference_mode(False), torch.no_grad():
            products = products_of(model)
            factors = {id(each) for product in products for each in (product.down, product.up)}
            targets = [product.trained() * lam for product in products]
        for product, target in zip(products, targets, strict=True):
            if not target.isfinite().all():
                raise UnsupportedModelError(
                    f"a matched null can't be had: what the adapter adds in {product.name} "
                    "has a norm that is not finite"
                )
        parameters = [each for each in model.parameters() if id(each) in factors]
        return cls(products, parameters, targets)

    @property
    def content(self) -> bytes:
        """Digest of everything but seed, shapes and dtypes that the noise depends on."""
        fields = [
            field
            for product, target in zip(self.products, self.targets, strict=True)
            for field in (
                repr((product.scaling, product.read_as)).encode(),
                target.numpy().tobytes(),
            )
        ]
        return digest_of(fields)

    def drawn(self, spec: ViewSpec, weights: Sequence[Tensor]) -> list[Tensor]:
        """Noise for each of ``weights``, which are what ``parameters`` hold.

        Raises:
            UnsupportedModelError: noise of that norm can't be had in the weights' dtype, or modules
                share A without sharing B.
        """
        with torch.inference_mode(False), torch.no_grad():
            firsts = firsts_on_memory(weights)
            order = [index for index, first in enumerate(firsts) if index == first]
            drawn = zip(order, normal_noise(spec.seed, weights), strict=True)
            on_memory = {index: laid(noise, weights[index].stride()) for index, noise in drawn}
            # A tied weight is another view of the same noise.
            noise = [
                on_memory[first].as_strided(own.shape, own.stride())
                for own, first in zip(weights, firsts, strict=True)
            ]
            fitted = self._once_a_memory(firsts)
            for pair, (product, target) in fitted.items():
                down, up = (noise[index] for index in pair)
                dtypes = [weights[index].dtype for index in pair]
                fitted_down, fitted_up = _fitted(product, target, (down, up), dtypes)
                down.copy_(fitted_down)
                up.copy_(fitted_up)
            found = placed((on_memory[index] for index in order), weights)
            for pair, product, target in self._listed():
                if pair not in fitted:  # tied to one that is
                    norms = product.norms(found[pair[0]], found[pair[1]])
                    _hold(product, target, _off(product, target, norms), found[pair[1]].dtype)
        return found

    def _listed(self) -> list[tuple[tuple[int, int], Product, Tensor]]:
        """Each product with where in ``parameters`` its A and B are, and its norms."""
        places = {id(each): index for index, each in enumerate(self.parameters)}
        pairs = [(places[id(each.down)], places[id(each.up)]) for each in self.products]
        return list(zip(pairs, self.products, self.targets, strict=True))

    def _once_a_memory(
        self, firsts: Sequence[int]
    ) -> dict[tuple[int, int], tuple[Product, Tensor]]:
        """The products to fit, by where their A and B are: one of those that share both.

        An embedding's goes first: what has the norms of all its columns has the head's norm too.
        """
        chosen: dict[frozenset[int], tuple[int, int]] = {}
        found = {}
        for pair, product, target in sorted(self._listed(), key=lambda each: not each[1].by_column):
            memories = frozenset(firsts[index] for index in pair)
            if memories in chosen:
                continue
            if len(memories) < 2 or any(memories & other for other in chosen):
                raise UnsupportedModelError(
                    f"a matched null can't be had: {product.name} shares its A or its B with "
                    "another module, and not both"
                )
            chosen[memories] = pair
            found[pair] = product, target
        return found


def _hold(product: Product, target: Tensor, off: float, dtype: torch.dtype) -> None:
    """Refuses norms that are off by more than the tolerance."""
    if not off <= TOLERANCE:
        raise UnsupportedModelError(
            f"a matched null can't be had: noise in {dtype} that has the norm "
            f"{float(target.norm()):.3g} of what the adapter adds in {product.name} was found "
            f"within {off:.1g} of it only, not {TOLERANCE:g}"
        )


def _fitted(
    product: Product, target: Tensor, noise: tuple[Tensor, Tensor], dtypes: Sequence[torch.dtype]
) -> tuple[Tensor, Tensor]:
    """``noise`` for A and for B, times what gives their product the norms ``target`` in dtypes.

    Raises:
        UnsupportedModelError: no such norm was found.
    """
    downs, ups = product.downs(noise[0]), product.ups(noise[1])
    by_down, by_up = _factors(product, target, downs, ups)
    downs, ups = _times(downs, by_down), _times(ups, by_up)
    up = ups.to(dtypes[1])
    down, off = _nearest(downs, dtypes[0], target, lambda tried: product.norms_of(tried, up))
    if product.by_column:
        # Rounding has few choices for a column of low rank; B makes up for what the whole is off.
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        whole = target.norm() * one
        up, off = _nearest(
            ups, dtypes[1], whole, lambda tried: product.norms_of(down, tried).norm() * one
        )
    _hold(product, target, off, dtypes[0])
    fitted = torch.empty(noise[0].shape), torch.empty(noise[1].shape)
    product.downs(fitted[0]).copy_(down)
    product.ups(fitted[1]).copy_(up)
    return fitted


def _factors(product: Product, target: Tensor, downs: Tensor, ups: Tensor) -> tuple[Tensor, Tensor]:
    """What A and B are multiplied by for the norms ``target`` and one root mean square."""
    wanted = _ratio(target, product.norms_of(downs, ups), 0.0)
    size_down, size_up = _rms(_times(downs, wanted)), _rms(ups)
    share = _ratio(size_up, size_down, 0.0).sqrt()
    return wanted * share, _ratio(torch.ones_like(share), share, 0.0)


def _nearest(
    exact: Tensor,
    dtype: torch.dtype,
    target: Tensor,
    norms_of: Callable[[Tensor], Tensor],
) -> tuple[Tensor, float]:
    """``exact`` rounded to ``dtype``, with norms as near to ``target`` as was found; how far off.

    Rounding is no smooth function of a scale: where two corrections of it don't do, elements are
    moved by up to half of the dtype's steps before they are rounded, each by itself.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    step, least = torch.ones_like(target), torch.full_like(target, math.inf)
    best = torch.zeros_like(exact, dtype=dtype)
    for attempt in range(_ATTEMPTS):
        if attempt < _CORRECTIONS:
            tried = _times(exact, step)
        else:
            spread = torch.rand(exact.shape, generator=generator) - 0.5
            tried = exact * (1.0 + spread * torch.finfo(dtype).eps)
        tried = tried.to(dtype)
        norms = norms_of(tried)
        off = _relative(norms, target)
        best, least = torch.where(off < least, tried, best), least.minimum(off)
        if least.max() <= _NEAR:
            break
        step = step * _ratio(target, norms, 1.0)
    return best, float(least.max())


def _times(matrices: Tensor, factors: Tensor) -> Tensor:
    """``matrices`` times ``factors`` in float32.

    The factors are rounded first: their last digits in float64 depend on the order in which a
    machine adds, and would now and then round an element to its other neighbour.
    """
    return matrices * factors.float()


def _rms(matrices: Tensor) -> Tensor:
    """Of each matrix: [experts, 1, 1]."""
    return matrices.square().mean((1, 2), keepdim=True, dtype=torch.float64).sqrt()


def _ratio(one: Tensor, other: Tensor, otherwise: float) -> Tensor:
    """``one`` over ``other``, and ``otherwise`` where either is 0."""
    is_known = (one > 0.0) & (other > 0.0)
    return torch.where(is_known, one / other, otherwise)


def _off(product: Product, target: Tensor, norms: Tensor) -> float:
    """How far norms are from those wanted, relative to them; of an embedding, of the whole."""
    if product.by_column:
        norms, target = norms.norm(), target.norm()
    return float(_relative(norms, target).max())


def _relative(norms: Tensor, target: Tensor) -> Tensor:
    return torch.where(norms == target, 0.0, (norms - target).abs() / target)


__all__ = ["TOLERANCE", "Match"]

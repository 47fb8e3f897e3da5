"""Normal noise for tensors, of which several may lie on one memory (tied weights)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor


def firsts_on_memory(weights: Sequence[Tensor]) -> list[int]:
    """For each of ``weights``, which is the first on the same memory with as many numbers."""
    found: dict[tuple[int, int], int] = {}
    return [
        found.setdefault((each.data_ptr(), each.numel()), index)
        for index, each in enumerate(weights)
    ]


def normal_noise(seed: int, weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Standard normal noise, one float32 tensor on the CPU for each memory, in the weights' order.

    Drawn on the CPU in float32 whatever the weights are, so that a seed means the same noise
    everywhere.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for index, first in enumerate(firsts_on_memory(weights)):
        if index == first:
            yield torch.randn(weights[index].shape, generator=generator, dtype=torch.float32)


def placed(noise: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """``noise`` in each weight's dtype and layout, on its device; tied weights share theirs.

    Args:
        noise: A tensor for each memory, of the shape of the first weight there.
        weights: What it will be put in the place of.
    """
    given = iter(noise)
    found: list[Tensor] = []
    # A tensor made in inference mode could not be put in place outside of it.
    with torch.inference_mode(False):
        for index, (own, first) in enumerate(zip(weights, firsts_on_memory(weights), strict=True)):
            # Tied: the embedding's part is the head's, seen from its other side.
            found.append(
                laid(next(given).to(own.device, own.dtype), own.stride())
                if index == first
                else found[first].as_strided(own.shape, own.stride())
            )
    return found


def laid(noise: Tensor, strides: Sequence[int]) -> Tensor:
    """``noise`` with these strides."""
    if noise.stride() == tuple(strides):
        return noise
    found = torch.empty_strided(noise.shape, strides, dtype=noise.dtype, device=noise.device)
    return found.copy_(noise)

"""``pytest --other-bits``: a processor on which a row's bits depend on its batch more than here.

Which kernel a matrix product takes, and so the order of its sums, depends on the processor, on the
number of threads and on the product's shape. On one machine a prompt has the same bits alone and in
a batch of eight, on another it hasn't. With this option what is embedded gets noise of a few units
in the last place, another for each shape of the batch and each place in it. So every value of
another batch is another number, within the tolerance of ``tests.tolerance``; the same batch gives
the same bits still. A test that fails under this option fails on some machine without it.

Processes that tests start compute as the machine does.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_UNITS = 2.0
"""Most noise, in units in the last place. Models of random weights make a hundred times as much of
it; more would leave the tolerance, and doesn't find more."""

_embedded = torch.nn.functional.embedding


def begin() -> None:
    """From now on, in this process, what is embedded is noisy."""
    # Not by a hook on modules, which would make every model one that has no lasting identity.
    torch.nn.functional.embedding = _noisy


def _noisy(*arguments: Any, **options: Any) -> Tensor:
    output: Tensor = _embedded(*arguments, **options)
    if output.device.type != "cpu":
        return output
    noise = torch.from_numpy(_noise(tuple(output.shape)))
    if output.dtype in (torch.float32, torch.float64):
        noise = noise * _UNITS
    else:
        # Sums are kept in float32, so that most round to the same: one in sixteen is a unit off.
        noise = noise * (noise.abs() > 1 - 1 / 16)
    return output * (1.0 + noise * torch.finfo(output.dtype).eps).to(output.dtype)


@lru_cache(maxsize=512)
def _noise(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """From -1 to 1, and always the same for a shape."""
    return np.random.default_rng(zlib.crc32(repr(shape).encode())).uniform(-1.0, 1.0, shape)

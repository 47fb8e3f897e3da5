"""A factor for each row of a forward: what an adapter adds is multiplied by that of its row.

PEFT multiplies what a LoRA layer adds by the layer's scaling. For the time of a forward of rows in
several views the scaling is an object that multiplies each row, or each token where rows run end to
end, by a number of its own: 0 for base, λ times the scaling for the others. Which row a number of
what is multiplied belongs to is told by its shape. A shape that isn't known is an error, and then
the views run one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from forwardcache.hf.batch.row import Row

_PRODUCTS = (Tensor.mul, Tensor.__mul__, torch.mul)


class RowsNotTold(Exception):
    """Which row a number belongs to can't be told."""


class OtherRowsFed(RowsNotTold):
    """Not all rows are fed: some are run again alone, since there was a NaN."""


class RowFactors:
    """What the rows of one forward multiply an adapter by.

    Args:
        rows: The rows, in the order in which they are given to the forward.
        factors: λ of each.
    """

    def __init__(self, rows: Sequence[Row], factors: Sequence[float]) -> None:
        self._rows = list(rows)
        self._factors = list(factors)
        self._laid: dict[tuple[int, ...], list[float]] = {}
        self._tensors: dict[Any, Tensor] = {}

    def of(self, scaling: Any) -> _RowScaling:
        """What stands for a layer's scaling.

        Raises:
            RowsNotTold: the scaling is not a number.
        """
        if isinstance(scaling, bool) or not isinstance(scaling, int | float):
            raise RowsNotTold(f"a scaling is {type(scaling).__name__}")
        return _RowScaling(self, float(scaling))

    @contextmanager
    def laid_out(
        self, rows: Sequence[Row], shape: tuple[int, int], kept: Tensor | None
    ) -> Iterator[None]:
        """While it lasts, a forward reads ``rows`` in a tensor of ``shape``.

        Args:
            rows: What is fed.
            shape: [rows, longest], or [1, tokens] where they run end to end.
            kept: The positions that the head is asked for; None for all.

        Raises:
            OtherRowsFed: these aren't the rows that the factors are of.
        """
        if list(rows) != self._rows:
            raise OtherRowsFed("other rows are fed than the factors are of")
        self._tensors.clear()
        self._laid = self._packed(shape, kept) if shape[0] < len(rows) else self._apart(shape, kept)
        try:
            yield
        finally:
            self._laid = {}

    def times(self, added: Tensor, scaling: float) -> Tensor:
        """What an adapter adds [..., width], times the scaling and each row's factor.

        Bit for bit what the scaled view's own number would make of it: in half precision that is
        multiplied in float32 and rounded once.

        Raises:
            RowsNotTold: the rows can't be told from the shape.
        """
        shape = tuple(added.shape[:-1])
        key = shape, scaling, added.dtype, added.device
        factors = self._tensors.get(key)
        if factors is None:
            if shape not in self._laid:
                raise RowsNotTold(f"what is multiplied has the shape {tuple(added.shape)}")
            # The product is made in float64, as Python makes λ times a scaling.
            numbers = [factor * scaling for factor in self._laid[shape]]
            dtype = torch.promote_types(added.dtype, torch.float32)
            column = torch.tensor(numbers, dtype=dtype, device=added.device)
            factors = column.view(*_with_ones(shape, len(column)))
            self._tensors[key] = factors
        product = added * factors
        return product if product.dtype == added.dtype else product.to(added.dtype)

    def _apart(self, shape: tuple[int, int], kept: Tensor | None) -> dict[Any, list[float]]:
        """By leading shape: factors of rows that are padded to one length."""
        count, longest = shape
        laid: dict[Any, list[float]] = {(count, longest): self._factors}
        if kept is not None:
            laid[count, int(kept.shape[-1])] = self._factors
        # Layers that see no rows get the tokens in a line.
        laid[count * longest,] = [each for each in self._factors for _ in range(longest)]
        return laid

    def _packed(self, shape: tuple[int, int], kept: Tensor | None) -> dict[Any, list[float]]:
        """By leading shape: factors of the tokens of rows that run end to end."""
        total = shape[1]
        pairs = zip(self._rows, self._factors, strict=True)
        tokens = [factor for row, factor in pairs for _ in row]
        # What fills them up is read by nobody.
        tokens += [0.0] * (total - len(tokens))
        laid: dict[Any, list[float]] = {(1, total): tokens, (total,): tokens}
        if kept is not None:
            asked = [tokens[at] for at in kept.flatten().tolist()]
            if laid.setdefault((1, len(asked)), asked) != asked:
                raise RowsNotTold("the head's positions can't be told from all others")
        return laid


class _RowScaling:
    """A layer's scaling, with a factor for each row: torch asks it what a product with it is.

    ``__rmul__`` would do, but torch makes an error with a long text before it comes to that.
    """

    __slots__ = ("_factors", "_scaling")

    def __init__(self, factors: RowFactors, scaling: float) -> None:
        self._factors = factors
        self._scaling = scaling

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, given: Sequence[Any] = (), named: Any = None
    ) -> Tensor:
        if function not in _PRODUCTS or named or not isinstance(given[-1], _RowScaling):
            raise RowsNotTold(f"a scaling goes through {getattr(function, '__name__', function)}")
        added, scaling = given
        product: Tensor = scaling._factors.times(added, scaling._scaling)
        return product


def _with_ones(shape: tuple[int, ...], numbers: int) -> tuple[int, ...]:
    """The shape in which so many numbers multiply a tensor of a leading ``shape``."""
    if len(shape) == 1:
        return numbers, 1
    return (numbers, 1, 1) if numbers == shape[0] else (1, numbers, 1)

"""``HiddenStates``: what a model's body gives its head for one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache._arrays import same, set_array, weighs_nbytes
from forwardcache.errors import InvalidInputError

# Of the objects around the arrays' memory. Measured: tests/hf/test_capacity.py.
_OBJECT_BYTES = 544
_EXPONENT = np.uint16(0x7F80)

ELEMENTS: dict[str, type[np.generic]] = {
    **{"float32": np.float32, "float64": np.float64, "float16": np.float16},
    **{"bfloat16": np.uint16},
}
"""By dtype of a model: the type of an array's elements; numpy has no bfloat16, so its bits."""


@weighs_nbytes
@dataclass(frozen=True, eq=False)
class HiddenStates:
    """The final hidden state of each token of a text: all that a model's head reads of it.

    That is the input of ``get_output_embeddings()``, after the final norm and before soft caps,
    scales and biases.

    Attributes:
        token_ids: int64[n], the tokens that were read.
        states: [n, hidden], in the model's dtype: elements of float32, float64 or float16, and for
            bfloat16, which numpy doesn't have, its bits as uint16. ``float32()`` gives numbers.
        dtype: "float32", "float64", "float16" or "bfloat16".

    Raises:
        InvalidInputError: there is no such dtype, the elements are of another type, or there is not
            one state for each token.
    """

    token_ids: NDArray[np.int64]
    states: NDArray[Any]
    dtype: str

    def __post_init__(self) -> None:
        set_array(self, "token_ids", np.int64)
        states, element = np.asarray(self.states), ELEMENTS.get(self.dtype)
        if element is None:
            raise InvalidInputError(f"dtype must be one of {', '.join(ELEMENTS)}: {self.dtype!r}")
        if states.dtype != element or states.ndim != 2 or len(states) != len(self.token_ids):
            raise InvalidInputError(
                f"{len(self.token_ids)} tokens need states of {np.dtype(element).name}"
                f"[{len(self.token_ids)}, hidden], got {states.dtype}{list(states.shape)}"
            )
        # Over bytes, so that nobody can make it writable.
        data = np.frombuffer(states.tobytes(), element)
        object.__setattr__(self, "states", data.reshape(states.shape))

    def float32(self) -> NDArray[np.float32]:
        """The states as float32[n, hidden], exactly but for float64; a new array."""
        if self.dtype != "bfloat16":
            return self.states.astype(np.float32)
        return (self.states.astype(np.uint32) << 16).view(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, for a cache that is bounded in bytes."""
        return _OBJECT_BYTES + self.token_ids.nbytes + self.states.nbytes

    @property
    def is_finite(self) -> bool:
        """Whether every number is finite."""
        if self.dtype == "bfloat16":
            return not bool(((self.states & _EXPONENT) == _EXPONENT).any())
        return bool(np.isfinite(self.states).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HiddenStates):
            return NotImplemented
        return (
            self.dtype == other.dtype
            and self.states.shape == other.states.shape
            and same(self.token_ids, other.token_ids, np.int64)
            and same(self.states, other.states, self.states.dtype)
        )

    def __hash__(self) -> int:
        return hash((self.token_ids.tobytes(), self.dtype, self.states.tobytes()))

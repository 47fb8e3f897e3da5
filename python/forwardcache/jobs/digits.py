"""Log-probabilities with the digits that float32 has, many at a time.

The core finds the shortest decimals of a float32 many times as fast as numpy, and a number that is
text already needn't be written a second time. Numbers look as Python's own ``repr`` has them,
whoever writes the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache._core import _float32_lists


class Numbers(list[Any]):
    """A list of numbers that knows how JSON has it.

    Attributes:
        text: The list as JSON.
    """

    __slots__ = ("text",)

    def __init__(self, values: Sequence[float | None], text: str) -> None:
        super().__init__(values)
        self.text = text


def float32_lists(arrays: Sequence[NDArray[np.float32]]) -> list[Numbers]:
    """Of each array the shortest decimals that read back as the same float32.

    Args:
        arrays: float32[n] each.

    Returns:
        One list an array; None where a value is no finite number.
    """
    data = b"".join(np.asarray(each, np.float32).tobytes() for each in arrays)
    return [Numbers(*each) for each in _float32_lists(data, list(map(len, arrays)))]


__all__ = ["Numbers", "float32_lists"]

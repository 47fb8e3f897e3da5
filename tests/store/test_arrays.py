"""Claims: the bytes are those of the safetensors library, which also reads them; arrays come back
equal and can't be written to, from the first call and from later ones of the same header; what the
library refuses is refused, whatever was read before.
"""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from forwardcache.store.arrays import Arrays, packed, unpacked

LAYOUTS: list[Arrays] = [
    {"value": np.array([1.5])},
    {"ids": np.array([5, 2, 9]), "logs": np.array([-0.1, -2.5, -7.0], np.float32)},
    {"z": np.array([1.0]), "a": np.array([2.0]), "none": np.zeros(0), "i": np.array([7])},
    {"logs": np.arange(4, dtype=np.float32), "more": np.arange(5, dtype=np.float32)},
]


@pytest.mark.parametrize("arrays", LAYOUTS, ids=range(len(LAYOUTS)))
def test_the_bytes_are_the_librarys(arrays: Arrays) -> None:
    for _ in range(2):
        blob = packed(arrays)
        assert blob == save(arrays)
        found = unpacked(b"before" + blob, 6)
        assert found.keys() == load(blob).keys()
        for name, array in found.items():
            assert array.dtype == arrays[name].dtype
            assert array.tolist() == arrays[name].tolist()
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True


def test_values_of_one_layout_do_not_mix() -> None:
    for number in range(3):
        [array] = unpacked(packed({"value": np.array([number])}), 0).values()
        assert array.tolist() == [number]


@pytest.mark.parametrize("cut", [1, 8, 24])
def test_other_sizes_behind_a_known_header_are_refused(cut: int) -> None:
    blob = packed(LAYOUTS[1])
    unpacked(blob, 0)
    with pytest.raises(SafetensorError):
        unpacked(blob[:-cut], 0)
    with pytest.raises(SafetensorError):
        unpacked(blob + bytes(cut), 0)


@pytest.mark.parametrize("array", [np.zeros((1, 1)), np.zeros(2, np.int32), np.zeros(2, bool)])
def test_arrays_that_no_value_has_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="of one dimension, got"):
        unpacked(save({"value": array}), 0)

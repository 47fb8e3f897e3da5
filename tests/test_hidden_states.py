"""Claims: ``HiddenStates`` holds states in the model's own dtype, and nobody changes it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import HiddenStates
from forwardcache.store.seal import seal, unseal

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_a_store_gives_back_what_it_took(dtype: str) -> None:
    element: Any = DTYPES.get(dtype, np.uint16)
    value = HiddenStates(np.arange(3), np.arange(12).reshape(3, 4).astype(element), dtype)
    found = unseal(bytes(32), seal(bytes(32), value))
    assert found == value
    assert hash(found) == hash(value)
    assert found.states.dtype == element


def test_bits_of_bfloat16_become_numbers() -> None:
    bits = np.array([[0x3F80, 0xC000, 0x3DCC]], np.uint16)
    value = HiddenStates(np.array([5]), bits, "bfloat16")
    assert value.float32().tolist() == [[1.0, -2.0, 0.099609375]]
    assert value.is_finite
    for strange in (0x7F80, 0xFF80, 0x7FC0):
        bits = np.array([[strange]], np.uint16)
        assert not HiddenStates(np.array([5]), bits, "bfloat16").is_finite


def test_nobody_can_write_to_it() -> None:
    numbers = np.ones((2, 2), np.float32)
    value = HiddenStates(np.arange(2), numbers, "float32")
    numbers[0, 0] = 7.0
    assert value.states[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        value.states[0, 0] = 2.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        value.states.flags.writeable = True
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.dtype = "float16"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("ids", "states", "dtype"),
    [
        (2, np.ones((3, 4), np.float32), "float32"),
        (3, np.ones(3, np.float32), "float32"),
        (3, np.ones((3, 4), np.float32), "bfloat16"),
        (3, np.ones((3, 4), np.float32), "int8"),
    ],
)
def test_what_is_no_value_is_refused(ids: int, states: Any, dtype: str) -> None:
    with pytest.raises(InvalidInputError):
        HiddenStates(np.arange(ids), states, dtype)

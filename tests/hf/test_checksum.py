"""Claims: a checksum depends on content alone, on all of it, and on nothing of this process."""

import hashlib

import numpy as np
import pytest
import torch

from forwardcache.hf.model import checksum
from forwardcache.hf.model.checksum import ContentSums, checksums

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool]


def drawn(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return (torch.randn(size, generator=generator) * 8).to(dtype)


def of(tensor: torch.Tensor) -> bytes:
    return checksums([tensor])[0]


def by_hand(tensor: torch.Tensor) -> bytes:
    """The module's words, in Python's own integers."""
    data = tensor.numpy().tobytes()
    kind = np.uint8 if len(data) % 4 else np.int32
    numbers = [int(each) for each in np.frombuffer(data, kind)]
    weights = hashlib.shake_256(b"forwardcache weights 1").digest(8 * 2 * 2**14)
    odd = (np.frombuffer(weights, np.int64) | 1).reshape(2, -1)
    rows = [numbers[start : start + 2**14] for start in range(0, len(numbers), 2**14)]
    sums = [
        sum(number * int(weight) for number, weight in zip(row, lane, strict=False))
        for row in rows
        for lane in odd
    ]
    lanes = np.array([(each + 2**63) % 2**64 - 2**63 for each in sums], np.int64)
    return hashlib.blake2b(lanes.tobytes(), digest_size=16).digest()


@pytest.mark.parametrize("size", [0, 1, 5, 2**14, 2**14 + 3, 5 * 2**14 + 7, 8 * 2**14])
def test_the_checksum_is_what_its_module_says(size: int) -> None:
    assert of(drawn(size)) == by_hand(drawn(size))


@pytest.mark.parametrize("rows", [1, 3, 512])
def test_it_does_not_depend_on_how_many_rows_a_device_takes_at_a_time(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = drawn(7 * 2**14 + 3)
    expected = of(tensor)
    monkeypatch.setitem(checksum._ROWS, "cpu", rows)
    assert of(tensor) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_checksum_of_the_cpu() -> None:
    for size in (1, 2**14 + 3, 600 * 2**14 + 7):
        assert of(drawn(size).cuda()) == of(drawn(size))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_odd_size_can_be_read(dtype: torch.dtype) -> None:
    for size in (1, 3, 16):
        tensor = drawn(size, dtype)
        other = tensor.clone()
        other[-1] = ~other[-1] if dtype == torch.bool else other[-1] + 1
        assert of(tensor) != of(other)
        assert of(tensor) == of(tensor.clone())


def test_it_depends_on_content_and_neither_on_strides_nor_on_where_a_slice_begins() -> None:
    tensor = drawn(64).reshape(8, 8)
    assert of(tensor.T.contiguous().T) == of(tensor)
    assert of(torch.cat([torch.zeros(1), drawn(64)])[1:]) == of(tensor)
    half = drawn(65, torch.bfloat16)
    assert of(half[1:]) == of(half[1:].clone())


def test_changes_that_a_plain_sum_would_miss_are_seen() -> None:
    tensor = drawn(1000)
    flipped, swapped, moved = tensor.clone(), tensor.clone(), tensor.clone()
    flipped[[3, 500]] *= -1.0
    swapped[[3, 500]] = tensor[[500, 3]]
    moved = moved.roll(2**1)
    assert len({of(each) for each in (tensor, flipped, swapped, moved)}) == 4


def test_any_bit_of_any_number_counts() -> None:
    tensor = torch.zeros(2**14 + 2, dtype=torch.int32)
    seen = {of(tensor)}
    for index in (0, 1, 2**14 - 1, 2**14, 2**14 + 1):
        for bit in range(32):
            other = tensor.clone()
            other[index] = -(2**31) if bit == 31 else 2**bit
            seen.add(of(other))
    assert len(seen) == 1 + 5 * 32


def test_several_tensors_have_the_checksums_they_have_alone() -> None:
    tensors = [drawn(size) for size in (3, 0, 70_000, 64)]
    assert checksums(tensors) == [of(each) for each in tensors]


def test_a_tensor_made_of_others_is_read_as_them() -> None:
    class Packed(torch.Tensor):
        quant_state: object

    class State:
        def __init__(self, absmax: torch.Tensor) -> None:
            self.absmax = absmax

    packed = torch.ones(8).as_subclass(Packed)
    packed.quant_state = State(torch.ones(2))
    before = of(packed)
    packed.quant_state.absmax[1] = 2.0
    assert of(packed) != before


@pytest.mark.parametrize("size", [1, 3, 4, 64, 5000, 70_000])
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_sums_follow_any_change_of_one_number(size: int, dtype: torch.dtype) -> None:
    tensor = drawn(size, dtype)
    sums = ContentSums([drawn(8), tensor])
    before = sums.read()
    assert sums.read() == before
    kept = tensor.clone()
    tensor[size // 2] += 1
    assert sums.read() != before
    tensor.copy_(kept)
    assert sums.read() == before


def test_sums_of_a_transposed_tensor_follow_it() -> None:
    tensor = drawn(64).reshape(8, 8).T
    sums = ContentSums([tensor])
    before = sums.read()
    tensor[1, 2] += 1.0
    assert sums.read() != before


def test_weights_are_odd() -> None:
    for lane in checksum._weights(torch.device("cpu")):
        assert bool((lane % 2 != 0).all())

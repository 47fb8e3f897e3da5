"""Claims: whatever writes to an adapter's memory is seen at the next look, also where the kernel is
relied on to tell of writes; where it can't be, sums are taken as before.

Not claimed, and not tried: what a device writes by itself through pages that were pinned before.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from forwardcache.hf.model import checksum
from forwardcache.hf.model.checksum import ContentSums

BYTES = 4 << 20
Write = Callable[[Tensor, Path], Any]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_SETTLE_S", 0.0)


def drawn() -> Tensor:
    return torch.arange(BYTES // 4, dtype=torch.int32)


def settled(tensors: list[Tensor]) -> ContentSums:
    """Sums that rely on the kernel, where it can be."""
    sums = ContentSums(tensors)
    assert all(sums.stand() for _ in range(3))
    if sys.platform == "linux" and not sums._known.is_settled:
        pytest.skip("this kernel doesn't tell of writes")
    return sums


def by_torch(tensor: Tensor, _: Path) -> None:
    tensor[5] = -1


def by_data(tensor: Tensor, _: Path) -> None:
    tensor.data[-1] = -1


def by_numpy(tensor: Tensor, _: Path) -> None:
    tensor.numpy()[4097] = -1


def by_address(tensor: Tensor, _: Path) -> None:
    ctypes.memset(tensor.data_ptr() + BYTES // 2, 1, 1)


def by_reading_a_file(tensor: Tensor, folder: Path) -> None:
    (folder / "file").write_bytes(b"\xff" * 100)
    with open(folder / "file", "rb", buffering=0) as file:
        assert file.readinto(memoryview(cast(Any, tensor.numpy())).cast("B")[:100]) == 100


def by_the_processs_own_file(tensor: Tensor, _: Path) -> None:
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(tensor.data_ptr())
        memory.write(b"\xff")


def by_another_mapping_in_its_place(tensor: Tensor, _: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    page = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    fixed, rights = 0x10, mmap.PROT_READ | mmap.PROT_WRITE
    flags = fixed | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    assert libc.mmap(page, mmap.PAGESIZE, rights, flags, -1, 0) == page


def by_giving_pages_back(tensor: Tensor, _: Path) -> None:
    given_back(tensor, mmap.PAGESIZE)


def by_giving_a_whole_table_back(tensor: Tensor, _: Path) -> None:
    given_back(tensor, 2 << 20)


def given_back(tensor: Tensor, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    begin = -(-tensor.data_ptr() // size) * size
    assert libc.madvise(begin, size, mmap.MADV_DONTNEED) == 0


WRITES: tuple[Write, ...] = (by_torch, by_data, by_numpy, by_address, by_reading_a_file)
ON_LINUX: tuple[Write, ...] = (
    by_the_processs_own_file,
    by_another_mapping_in_its_place,
    by_giving_pages_back,
    by_giving_a_whole_table_back,
)


@pytest.mark.parametrize("write", [*WRITES, *ON_LINUX], ids=lambda each: str(each.__name__))
def test_a_write_is_seen_at_the_next_look(write: Write, tmp_path: Path) -> None:
    if write in ON_LINUX and sys.platform != "linux":
        pytest.skip("only Linux has it")
    tensor = drawn()
    sums = settled([torch.ones(3), tensor])
    before = tensor.clone()
    write(tensor, tmp_path)
    assert not sums.stand()
    assert not sums.stand()
    tensor.copy_(before)
    assert all(sums.stand() for _ in range(4))
    tensor[-1] += 1
    assert not sums.stand()


def test_a_write_is_seen_by_all_who_look(tmp_path: Path) -> None:
    tensor = drawn()
    looks = [settled([tensor]) for _ in range(3)]
    for _ in range(3):
        assert all(sums.stand() for sums in looks)
    tensor[7] = -1
    for _ in range(3):
        assert not any(sums.stand() for sums in looks)


def test_a_child_of_a_fork_sees_its_own_writes_alone() -> None:
    tensor = drawn()
    sums = settled([tensor])
    child = os.fork()
    if not child:
        seen = sums.stand(), sums.stand()
        tensor[3] = -1
        os._exit(0 if seen == (True, True) and not sums.stand() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sums.stand()
    assert sums._known.is_settled
    tensor[3] = -1
    assert not sums.stand()


def test_shared_memory_is_always_summed() -> None:
    tensor = drawn().share_memory_()
    sums = ContentSums([tensor])
    assert all(sums.stand() for _ in range(4))
    assert not sums._known.is_settled
    tensor[0] = -1
    assert not sums.stand()


def test_a_mapped_file_is_always_summed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(BYTES))
    tensor = torch.from_file(str(path), shared=False, size=BYTES // 4, dtype=torch.int32)
    sums = ContentSums([tensor])
    assert all(sums.stand() for _ in range(4))
    assert not sums._known.is_settled
    with open(path, "r+b", buffering=0) as file:
        file.write(b"\xff")
    assert not sums.stand()


def test_the_kernel_is_not_relied_on_beside_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = drawn()
    sums = settled([tensor])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert all(sums.stand() for _ in range(4))
    assert not sums._known.is_settled

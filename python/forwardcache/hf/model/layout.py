"""Where torch keeps a tensor's version and address, found by trials with tensors made for it.

The getters ``_version`` and ``data_ptr`` take 90 ns a tensor between them, several times as much as
all else of a look. Both read numbers that stand at fixed offsets in objects whose addresses torch
tells (``_cdata``). A field is what follows a change that is made for it, and nothing else does;
where none does, or several do, there is no layout, and the getters are called. What is read is
held against the getters again for each tensor of a model before it is relied on.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# Not beyond the smallest of these objects in any version of torch that is supported.
_TENSOR_BYTES = 184
_STORAGE_BYTES = 64
_COUNTER_BYTES = 24
_AUTOGRAD_BYTES = 192
_WORD = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes from the beginning of an object to a field in it.

    Attributes:
        tensor: In Python's object, the address of libtorch's tensor.
        storage: In that, the address of its storage.
        counter: In that, the address of its version counter.
        autograd: In that, the address of what autograd knows of it, or 0.
        offset: In that, where in its storage it begins, in numbers.
        numel: In that, the number of its numbers.
        kind: In that, a word with its dtype and device.
        memory: In the storage, the address of its memory.
        version: In the version counter, the version, of 32 bits.
        gradient: In what autograd knows, whether a gradient is asked for, of 8 bits.
    """

    tensor: int
    storage: int
    counter: int
    autograd: int
    offset: int
    numel: int
    kind: int
    memory: int
    version: int
    gradient: int


@cache
def layout() -> Layout | None:
    """The layout in this process; None if it can't be told."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != _WORD:
        return None
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    try:
        with torch.inference_mode(mode=False), torch.device("cpu"):
            return _found()
    except (_UnknownLayoutError, RuntimeError, AttributeError, TypeError):
        return None


class _UnknownLayoutError(Exception):
    """No field, or more than one, does what the one that is looked for does."""


def _found() -> Layout:
    # Numbers that nothing else in a tensor happens to be.
    begins, rows, columns = 1009, 37, 41
    base = torch.zeros(20011)
    drawn = [base.as_strided((rows, columns), (columns, 1), begins), torch.zeros(3)]
    drawn += [torch.frombuffer(bytearray(64), dtype=torch.uint8), torch.zeros(5, dtype=torch.int16)]
    numel = _only(_words(drawn[0], _TENSOR_BYTES, lambda word: word == rows * columns))
    storage = _only(
        set.intersection(*(_words(each, _TENSOR_BYTES, _is(_storage(each))) for each in drawn))
    )
    counter = _only(_shared(drawn) - {storage})
    version = _version_in(_word(drawn[1]._cdata + counter), drawn[1])
    autograd = _autograd_in()
    return Layout(
        tensor=_only(set.intersection(*map(_tensor_in, drawn))),
        storage=storage,
        counter=counter,
        autograd=autograd,
        offset=_only(_words(drawn[0], _TENSOR_BYTES, _is(begins))),
        numel=numel,
        kind=_kind_after(numel),
        memory=_only(set.intersection(*map(_memory_in, drawn))),
        version=version,
        gradient=_gradient_in(autograd),
    )


def _only(offsets: set[int]) -> int:
    if len(offsets) != 1:
        raise _UnknownLayoutError
    return offsets.pop()


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _is(value: int) -> Callable[[int], bool]:
    return lambda word: word == value


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _words(tensor: Tensor, size: int, fits: Callable[[int], bool]) -> set[int]:
    """Offsets in a tensor of the words that fit."""
    return {at for at in range(0, size, _WORD) if fits(_word(tensor._cdata + at))}


def _tensor_in(tensor: Tensor) -> set[int]:
    size = type(tensor).__basicsize__
    return {at for at in range(0, size, _WORD) if _word(id(tensor) + at) == tensor._cdata}


def _memory_in(tensor: Tensor) -> set[int]:
    storage, address = _storage(tensor), tensor.untyped_storage().data_ptr()
    return {at for at in range(0, _STORAGE_BYTES, _WORD) if _word(storage + at) == address}


def _shared(tensors: list[Tensor]) -> set[int]:
    """Where an address is that a tensor has in common with its ``detach``, and with no other."""
    found = set(range(0, _TENSOR_BYTES, _WORD))
    seen: set[int] = set()
    for tensor in tensors:
        own, twin = tensor._cdata, tensor.detach()
        found &= {at for at in found if _word(own + at) == _word(twin._cdata + at)}
        found &= {at for at in found if _is_address(_word(own + at))}
        found &= {at for at in found if _word(own + at) not in seen}
        seen |= {_word(own + at) for at in found}
    return found


def _is_address(word: int) -> bool:
    return word > 2**16 and word % _WORD == 0 and word < 2**47


def _version_in(counter: int, tensor: Tensor) -> int:
    """Where the version is in a counter of which ``tensor`` raises the version."""
    found = set(range(0, _COUNTER_BYTES, 4))
    for times in (1, 3, 11):
        for _ in range(times):
            tensor.add_(1)
        value = tensor._version
        found &= {at for at in found if _half(counter + at) == value}
    return _only(found)


def _half(address: int) -> int:
    return ctypes.c_uint32.from_address(address).value


def _kind_after(numel: int) -> int:
    """The word after the number of numbers, if it tells the dtype."""
    dtypes = (torch.float32, torch.float64, torch.int32, torch.int8, torch.bfloat16, torch.bool)
    kinds = [_word(torch.zeros(3, dtype=each)._cdata + numel + _WORD) for each in dtypes * 2]
    if len(set(kinds)) != len(dtypes) or kinds[: len(dtypes)] != kinds[len(dtypes) :]:
        raise _UnknownLayoutError
    return numel + _WORD


def _autograd_in() -> int:
    tensor = torch.zeros(3)
    before = _words(tensor, _TENSOR_BYTES, _is(0))
    tensor.requires_grad_(True)
    return _only(before - _words(tensor, _TENSOR_BYTES, _is(0)))


def _gradient_in(autograd: int) -> int:
    """Where a byte is 1 while a gradient is asked for, and 0 while none is."""
    found = set(range(_AUTOGRAD_BYTES))
    for tensor in (torch.zeros(3), torch.nn.Parameter(torch.zeros(2)), torch.zeros(1)):
        for asks in (True, False, True, False):
            tensor.requires_grad_(asks)
            known = _word(tensor._cdata + autograd)
            found &= set(_bytes_that_are(int(asks), known, found))
    return _only(found)


def _bytes_that_are(value: int, address: int, offsets: set[int]) -> Iterator[int]:
    return (at for at in offsets if ctypes.c_uint8.from_address(address + at).value == value)


__all__ = ["Layout", "layout"]

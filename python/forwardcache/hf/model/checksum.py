"""A checksum of what tensors hold, computed where they lie.

A tensor's memory is read as 32-bit numbers in rows of 16,384. Each row gives two lanes of 64 bits:
the sum of number times weight, modulo 2**64, with one fixed odd weight a column and lane. A change
of a single number changes both lanes for certain, since its difference times an odd weight is never
0; any other change goes unseen in both with a chance near 2**-64. The lanes of all rows are hashed
on the host. Integer sums come out the same in any order, on any device and in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch import Tensor

from forwardcache._core import _MemorySums
from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.spec import tagged

_COLUMNS = 2**14
_LANES = 2
# Rows at a time: what fits the cache of a CPU core; on a GPU, enough to keep it busy.
_ROWS = {"cpu": 4}
_ROWS_ELSEWHERE = 512
# Adapter tensors on a device are joined before they are summed, up to this size.
_JOINED_BYTES = 2**22
# For so long nothing may have been written before the kernel is relied on to tell of writes.
_SETTLE_S = 1.0


def checksums(tensors: Iterable[Tensor]) -> list[bytes]:
    """16 bytes for each tensor, of its content alone: neither its shape nor its dtype.

    Raises:
        UnsupportedModelError: the memory of a tensor can't be read as numbers.
    """
    with torch.no_grad():
        lanes = [_lanes(tensor) for tensor in tensors]
    return [hashlib.blake2b(each, digest_size=16).digest() for each in _fetched(lanes)]


def _lanes(tensor: Tensor) -> Tensor:
    """int64[rows of all parts, lanes], on the tensor's device."""
    parts = [_numbers(part) for part in _parts(tensor)]
    sums = [each for part in parts for each in _row_sums(part)]
    empty = torch.empty(0, _LANES, dtype=torch.int64, device=tensor.device)
    return torch.cat(sums) if sums else empty


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor is made of; a quantised one may have several."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in _parts(getattr(tensor, name))]
    if tensor.is_quantized:
        return [tensor.int_repr(), *_steps_of(tensor)]
    state = getattr(tensor, "quant_state", None)
    inner = vars(state).values() if hasattr(state, "__dict__") else ()
    return [tensor, *(each for each in inner if isinstance(each, Tensor))]


def _steps_of(tensor: Tensor) -> list[Tensor]:
    """Scales and zero points of a tensor of torch's own quantised kinds."""
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams):
        return [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
    return [torch.tensor([tensor.q_scale(), float(tensor.q_zero_point())], dtype=torch.float64)]


def _numbers(tensor: Tensor) -> Tensor:
    """The memory of a tensor as int32[n], or as uint8[n] where it is no multiple of 4 bytes."""
    try:
        flat = tensor.detach().contiguous().view(-1)
        kind = torch.uint8 if flat.nbytes % 4 else torch.int32
        # A slice that begins between two numbers of the wider kind has to be moved.
        aligned = flat.data_ptr() % 4 == 0 and flat.storage_offset() * flat.itemsize % 4 == 0
        return (flat if aligned else flat.clone()).view(kind)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = f"identity can't read a tensor of {type(tensor).__name__} ({tensor.dtype})"
        raise UnsupportedModelError(f"{reason}; name the weights with identity_label") from error


def _row_sums(numbers: Tensor) -> list[Tensor]:
    """For some rows at a time, the lanes of each: int64[rows, lanes]."""
    whole = len(numbers) - len(numbers) % _COLUMNS
    rows = _ROWS.get(numbers.device.type, _ROWS_ELSEWHERE)
    chunks = list(torch.split(numbers[:whole].view(-1, _COLUMNS), rows)) if whole else []
    if whole < len(numbers):
        chunks.append(numbers[whole:].unsqueeze(0))
    weights = _weights(numbers.device)
    sums = []
    for chunk in chunks:
        wide = chunk.to(torch.int64)
        width = wide.shape[1]
        sums.append(torch.stack([(wide * lane[:width]).sum(1) for lane in weights], dim=1))
    return sums


@cache
def _weights(device: torch.device) -> tuple[Tensor, ...]:
    """Odd weights, int64[columns] a lane: the same everywhere and for ever."""
    drawn = hashlib.shake_256(b"forwardcache weights 1").digest(8 * _LANES * _COLUMNS)
    numbers = torch.frombuffer(bytearray(drawn), dtype=torch.int64).view(_LANES, _COLUMNS)
    return tuple((numbers | 1).to(device))


def _fetched(lanes: Sequence[Tensor]) -> list[bytes]:
    """The lanes as bytes, with one transfer a device."""
    fetched = [b""] * len(lanes)
    for device in {each.device for each in lanes}:
        indices = [index for index, each in enumerate(lanes) if each.device == device]
        joined = torch.cat([lanes[index] for index in indices]).cpu()
        parts = torch.split(joined, [len(lanes[index]) for index in indices])
        for index, part in zip(indices, parts, strict=True):
            fetched[index] = part.numpy().tobytes()
    return fetched


def digest_of(fields: Iterable[bytes]) -> bytes:
    """32 bytes for a list of byte strings."""
    return hashlib.blake2b(tagged(fields), digest_size=32).digest()


class ContentSums:
    """Integer sums over the memory of some tensors, cheap enough for every call.

    In the host's memory a sum is taken where the numbers lie; from 1 MiB on not again while the
    kernel is known to tell of every write, and tells of none. On a device, small tensors are joined
    first, so that a sum costs one operation instead of one a tensor. Any change of one number is
    seen; changes of one tensor (on a device: of those that are joined) that cancel are not. Keeps
    the tensors' memory, not the tensors.

    Attributes:
        first: The sums as they were first.
        can_stand: Whether ``stand`` can tell anything: all that is summed lies in the host's memory
            and is the tensors' own.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        with torch.no_grad():
            parts = [(tensor, part) for tensor in tensors for part in _parts(tensor)]
            views = [_words(part) for _, part in parts]
        self._near = [view for view in views if view.is_cpu and view.numel()]
        self._joined: dict[torch.device, list[Tensor]] = {}
        self._alone: list[Tensor] = []
        for view in views:
            if view.dtype == torch.int64 and view.nbytes <= _JOINED_BYTES and not view.is_cpu:
                self._joined.setdefault(view.device, []).append(view)
            elif view.numel() and not view.is_cpu:
                self._alone.append(view)
        self._pieces = self._lying()
        self._memory = self._known = _MemorySums(self._pieces, _SETTLE_S)
        self.can_stand = not self._joined and not self._alone
        self.can_stand &= all(part is tensor for tensor, part in parts)
        self.first = [*self._known.first, *self._far()]

    def stand(self) -> bool:
        """Whether the sums are as they were first.

        Read where the tensors lay then: the caller knows that they lie there still.
        """
        # A device that is open may write by itself.
        relies = not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return self._memory is self._known and self._known.holds(relies)

    def read(self) -> list[int]:
        """The sums as they are now."""
        pieces = self._lying()
        if pieces != self._pieces:
            self._pieces, self._memory = pieces, _MemorySums(pieces, _SETTLE_S)
        return [*self._memory.read(), *self._far()]

    def _lying(self) -> list[tuple[int, int]]:
        """Address and bytes of what lies in the host's memory; of what is gone, nothing."""
        return [(each.data_ptr(), each.nbytes if _is_there(each) else 0) for each in self._near]

    def _far(self) -> list[int]:
        """The sums on devices."""
        sums = [torch.cat(views).sum() for views in self._joined.values()]
        sums += [view.sum() for view in self._alone]
        return [int(each) for each in torch.stack([each.cpu() for each in sums])] if sums else []


def _is_there(view: Tensor) -> bool:
    """Whether a storage still reaches as far as a view of it: it may have been made smaller."""
    begins = view.storage_offset() * view.itemsize
    return view.untyped_storage().nbytes() >= begins + view.nbytes


def _words(tensor: Tensor) -> Tensor:
    """The memory of a tensor as int64[n], or as bytes where it is no multiple of 8 of them.

    Empty for a tensor whose memory has gaps: a copy would not follow its changes.
    """
    own = tensor.detach()
    strides = own.stride()
    dense = own.permute(sorted(range(own.ndim), key=lambda axis: -strides[axis]))
    if not dense.is_contiguous():
        return torch.empty(0, dtype=torch.uint8)
    flat = dense.view(-1)
    aligned = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.itemsize % 8 == 0
    return flat.view(torch.int64 if aligned else torch.uint8)


__all__ = ["ContentSums", "checksums", "digest_of"]

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

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.spec import tagged

_COLUMNS = 2**14
_LANES = 2
# Rows at a time: what fits the cache of a CPU core; on a GPU, enough to keep it busy.
_ROWS = {"cpu": 4}
_ROWS_ELSEWHERE = 512
# Adapter tensors up to this size are joined before they are summed.
_JOINED_BYTES = {"cpu": 2**14}
_JOINED_BYTES_ELSEWHERE = 2**22


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

    Small tensors are joined first, so that a sum costs one operation instead of one a tensor. Any
    change of one number is seen; changes that cancel are not. Keeps the tensors' memory, not the
    tensors.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        with torch.no_grad():
            views = [_words(part) for tensor in tensors for part in _parts(tensor)]
        self._joined: dict[torch.device, list[Tensor]] = {}
        self._alone: list[Tensor] = []
        for view in views:
            limit = _JOINED_BYTES.get(view.device.type, _JOINED_BYTES_ELSEWHERE)
            if view.dtype == torch.int64 and view.nbytes <= limit:
                self._joined.setdefault(view.device, []).append(view)
            elif view.numel():
                self._alone.append(view)
        self._is_on_cpu = all(view.is_cpu for view in views)

    def read(self) -> list[int]:
        """The sums as they are now."""
        sums = [torch.cat(views).sum() for views in self._joined.values()]
        sums += [view.sum() for view in self._alone]
        if self._is_on_cpu:
            return [int(each) for each in sums]
        return [int(each) for each in torch.stack([each.cpu() for each in sums])]


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

"""A forward whose numbers are rounded a little differently, at random.

Each element of every block's output, and of what the body hands to the head, moves by -1, 0 or +1
unit in the last place with probability 1/12, 10/12, 1/12. Noise that is added as a number and is
below half a unit would be rounded back to nothing, so the bits themselves are moved.

What is drawn for an element follows from the seed, the tokens of its row up to it, the block and
its place in the width, by a hash and no generator: rows are rounded alike in any batch, on any
device, and no row of another length moves them.

Blocks are found by structure: they stand in the outermost lists of modules, are made of modules
themselves, and give states of the shape that they are given. So a list of experts is none (it lies
inside a block), nor is one of norms or embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forwardcache.errors import UnsupportedModelError

_SHARE = 1.0 / 12.0
_LOW = -(2**31) + round(2**32 * _SHARE)
_HIGH = 2**31 - round(2**32 * _SHARE)
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Elements that are moved at once, so that memory is not a multiple of the states.
_BLOCK, _DEVICE_BLOCK = 2**17, 2**24
# Multipliers of murmur3 and splitmix64, as signed numbers.
_FIRST, _SECOND = 0x85EBCA6B - 2**32, 0xC2B2AE35 - 2**32
_TOKEN, _PLACE = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64


@contextmanager
def rounded_anew(
    model: nn.Module, causal_lm: Any, body: Any, dtype: torch.dtype, seed: Sequence[int]
) -> Iterator[None]:
    """While it lasts, forwards of ``model`` round at random. The caller holds the model's lock.

    Args:
        model: What is called, with ``input_ids`` by name.
        causal_lm: The transformers model itself.
        body: What gives the head its states; anything else than a module where nothing can be told.
        dtype: In which the model computes.
        seed: Numbers from 0 on, that decide what is drawn.

    Raises:
        UnsupportedModelError: no block of the model is found, or none of them ran.
    """
    found = blocks_of(causal_lm)
    rounding = _Rounding(dtype, seed)
    with ExitStack() as stack:
        begins = model.register_forward_pre_hook(rounding.begin, with_kwargs=True)
        stack.callback(begins.remove)
        for block in found:
            stack.callback(block.register_forward_hook(rounding.block, with_kwargs=True).remove)
        if isinstance(body, nn.Module):
            stack.callback(body.register_forward_hook(rounding.body).remove)
        head = causal_lm.get_output_embeddings()
        stack.callback(head.register_forward_pre_hook(rounding.head).remove)
        yield
    if rounding.has_reached_head and not rounding.has_moved_blocks:
        raise UnsupportedModelError(
            f"none of the {len(found)} blocks that were found in {type(causal_lm).__name__} gave "
            "states of the shape that it was given, so what its rounding makes can't be measured"
        )


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What may be a block of ``model``: members, made of modules, of its outermost lists."""
    found: dict[nn.Module, None] = {}
    for child in model.children():
        found.update(dict.fromkeys(_members(child) if _is_list(child) else blocks_of(child)))
    return list(found)


def _members(modules: nn.Module) -> Iterator[nn.Module]:
    for each in modules.children():
        if _is_list(each):
            yield from _members(each)
        elif any(True for _ in each.children()):
            yield each


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def moved_by_ulps(states: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
    """``states`` moved by -1, 0 or +1 unit in the last place, none from finite to infinite.

    A step upwards is away from 0, except from 0 itself, where it is to the smallest number.

    Args:
        states: Of any floating dtype and shape.
        steps: int64, int32 or int16 of that shape: -1, 0 or 1.
        dtype: Whose units these are. Where states are kept in a finer one (a residual stream in
            float32), they move by as much as the coarser one would round.
    """
    if torch.finfo(dtype).eps > torch.finfo(states.dtype).eps:
        return _moved_by_coarser_ulps(states, steps, torch.finfo(dtype).eps)
    whole = _BITS[states.dtype.itemsize]
    info = torch.iinfo(whole)
    bits, steps = states.view(whole), steps.to(whole)
    # Magnitudes are ordered as their bits are, from the smallest up to infinity; from 0 a step down
    # is to the smallest number of the other sign. No floats: their smallest are slow to compute.
    moved = torch.where(states == 0, steps & (info.min | 1), bits + steps)
    largest = torch.maximum(bits & info.max, moved & info.max)
    infinity = int(torch.tensor(math.inf, dtype=states.dtype).view(whole))
    return torch.where(largest < infinity, moved, bits).view(states.dtype)


def _moved_by_coarser_ulps(states: Tensor, steps: Tensor, eps: float) -> Tensor:
    size = torch.ldexp(torch.ones_like(states), states.frexp().exponent - 1)
    moved = states + steps * size * eps * (states != 0)
    return torch.where(moved.isfinite(), moved, states)


def drawn_steps(salts: Tensor, keys: Tensor) -> Tensor:
    """int16[n, width] of -1, 0 and 1, for int32[n] of positions and int32[width] of places."""
    # As murmur3 ends, but for what its last step does to the low bits. Shifts repeat the sign.
    mixed = salts.unsqueeze(-1) ^ keys
    mixed ^= (mixed >> 16).bitwise_and_(0xFFFF)
    mixed *= _FIRST
    mixed ^= (mixed >> 13).bitwise_and_(0x7FFFF)
    mixed *= _SECOND
    return (mixed >= _HIGH).to(torch.int16) - (mixed < _LOW).to(torch.int16)


def salts_of(input_ids: Tensor, position_ids: Tensor | None) -> Tensor:
    """int32 of the shape of ``input_ids`` [rows, tokens]: of a token and all before it in its row.

    Args:
        input_ids: What the model reads.
        position_ids: Of the same shape, 0 where a row begins; None where each begins at the left.
    """
    steps = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    places = steps if position_ids is None else position_ids.expand_as(input_ids)
    each = _mixed64((input_ids.long() + 1) * _TOKEN + places * _PLACE)
    sums = each.cumsum(1)
    begins = torch.where(places == 0, steps, 0).cummax(1).values
    return _mixed64(sums - (sums - each).gather(1, begins)).to(torch.int32)


def _mixed64(numbers: Tensor) -> Tensor:
    for shift, factor in ((30, _PLACE), (27, _TOKEN), (31, 1)):
        numbers = (numbers ^ ((numbers >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return numbers


class _Rounding:
    """Moves the outputs of blocks and of the body while forwards run.

    Attributes:
        has_moved_blocks: Whether any block's output was moved.
        has_reached_head: Whether what the head is given was.
    """

    def __init__(self, dtype: torch.dtype, seed: Sequence[int]) -> None:
        self._dtype = dtype
        self._seed = tuple(seed)
        self._salts: Tensor | None = None
        self._keys: dict[tuple[int, int], Tensor] = {}
        # How often something was moved in the forward that runs, and what it was the last time.
        self._moves = 0
        self._last: Tensor | None = None
        self._has_final = False
        self.has_moved_blocks = self.has_reached_head = False

    def begin(self, _: nn.Module, _inputs: Any, named: Mapping[str, Any]) -> None:
        """A forward begins."""
        self._moves, self._last, self._has_final = 0, None, False
        self._salts = salts_of(named["input_ids"], named.get("position_ids"))

    def block(self, _: nn.Module, inputs: Any, named: Mapping[str, Any], output: Any) -> Any:
        """What a block gives instead of ``output``."""
        given = [each for each in (*inputs, *named.values()) if isinstance(each, Tensor)]
        shapes = {each.shape for each in given if each.is_floating_point()}
        at = _first_states(output, shapes)
        if at is None:
            return None
        self.has_moved_blocks = True
        return self._replaced(output, at)

    def body(self, _: nn.Module, _inputs: Any, output: Any) -> Any:
        """What the body gives instead of ``output``."""
        at = _first_states(output, None)
        if at is None:
            return None
        self._has_final = self.has_reached_head = True
        return self._replaced(output, at)

    def head(self, _: nn.Module, inputs: Any) -> Any:
        """What the head is given, where no body was seen to hand it over."""
        if self._has_final or not inputs or not _is_states(inputs[0]):
            return None
        self._has_final = self.has_reached_head = True
        return (self._moved(inputs[0]), *inputs[1:])

    def _replaced(self, output: Any, at: Any) -> Any:
        if isinstance(output, Tensor):
            return self._moved(output)
        if isinstance(output, Mapping):
            output[at] = self._moved(output[at])  # type: ignore[index]
            return output
        moved = [self._moved(each) if place == at else each for place, each in enumerate(output)]
        # A tuple whose entries have names is made of a list by a method of its own.
        return getattr(type(output), "_make", type(output))(moved)

    def _moved(self, states: Tensor) -> Tensor:
        if self._last is not None and _are_same(self._last, states):
            # A body without a norm at its end hands over what its last block gave.
            return states
        rows, salts = states.reshape(-1, states.shape[-1]), self._salts_for(states)
        keys, moved = self._keys_for(states), torch.empty_like(rows)
        block = _BLOCK if states.device.type == "cpu" else _DEVICE_BLOCK
        parts = (torch.split(each, max(1, block // len(keys))) for each in (rows, salts, moved))
        for part, salt, out in zip(*parts, strict=True):
            out.copy_(moved_by_ulps(part, drawn_steps(salt, keys), self._dtype))
        self._moves += 1
        self._last = moved.view(states.shape)
        return self._last

    def _salts_for(self, states: Tensor) -> Tensor:
        count = math.prod(states.shape[:-1])
        if self._salts is None or self._salts.numel() != count:
            # Not one state for each token: what is drawn depends on the batch here.
            numbers = torch.arange(1, count + 1, device=states.device)
            return _mixed64(numbers * _TOKEN).to(torch.int32)
        return self._salts.to(states.device).flatten()

    def _keys_for(self, states: Tensor) -> Tensor:
        name = self._moves, states.shape[-1]
        if name not in self._keys:
            generator = np.random.default_rng([*self._seed, self._moves])
            drawn = generator.integers(-(2**31), 2**31, states.shape[-1], dtype=np.int32)
            self._keys[name] = torch.from_numpy(drawn)
        if self._keys[name].device != states.device:
            self._keys[name] = self._keys[name].to(states.device)
        return self._keys[name]


def _are_same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _is_states(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _first_states(output: Any, shapes: set[torch.Size] | None) -> Any:
    """Where in ``output`` states are, of one of ``shapes`` where given; None for nowhere."""
    if isinstance(output, Tensor):
        places: list[tuple[Any, Any]] = [(0, output)]
    elif isinstance(output, Mapping):
        places = list(output.items())
    elif isinstance(output, tuple | list):
        places = list(enumerate(output))
    else:
        return None
    fitting = (
        at for at, each in places if _is_states(each) and (shapes is None or each.shape in shapes)
    )
    return next(fitting, None)

"""How a model's streams decode: measured on short rows, held to the model's plain forward.

A row's logits after each of a few steps have to be those that one forward of the whole row gives.
The ways are tried from the fastest to the plainest; the first that agrees is taken. Rows are longer
than any window of at most ``reach.MOST`` tokens, so that a way is never granted by rows that are
too short to tell; where a window is longer than that, streams don't share a cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.kvcache import cache_argument
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.reach import MOST, limits, special_ids, switch
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.stream.alone import (
    AloneRows,
    CarryingRow,
    LibraryRow,
    MakeRow,
    Row,
    SwitchingRow,
    WholeRow,
    plain_logits,
)
from forwardcache.hf.stream.decode import DecodingRows, Rows

Cache = Literal["shared", "given", "own", "carried", "none"]

# Most that rounding moves logits, in their standard deviations: in half precision, in float32.
_SAME = (0.1, 1e-3)
# How many times that the early tokens of a row have to move its last logits.
_POWER = (5.0, 20.0)
# Tokens of a row, and those of them beyond the longest window.
_SHORTEST, _FURTHER = 20, 14
# Steps of a row that decodes alone.
_STEPS = 5
AHEAD = "sees what follows: it is not causal"


@dataclass(frozen=True, slots=True)
class StreamWay:
    """How a model's streams decode.

    Attributes:
        kind: "joined" rows over one cache, each "alone" with its own, or "refused".
        note: Why it is no faster way; for "refused", why there is none. Empty for "joined".
        cache: What is kept from one token to the next: a cache of all keys that rows share, the
            one that the model's configuration describes, the one that the model makes, whatever
            its output has, or none.
    """

    kind: Literal["joined", "alone", "refused"]
    note: str = ""
    cache: Cache = "none"

    def rows(self, model: Any, causal_lm: Any) -> Rows:
        """Empty rows that decode this way.

        Args:
            model: What is called: the model, or the PEFT model around it.
            causal_lm: The transformers model itself.
        """
        if self.kind == "joined":
            return DecodingRows(model, causal_lm)
        return AloneRows(_row_maker(causal_lm, self.cache))


def stream_way(model: Any, causal_lm: Any) -> StreamWay:
    """Measures how streams of this model decode; at most a few dozen forwards of a few tokens.

    The caller holds the model's lock, has switched the view and runs in inference mode.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.

    Returns:
        The way, and what keeps the model from a faster one.
    """
    devices = [causal_lm.device] if causal_lm.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            return _Probe.of(causal_lm).way(model)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            name = type(causal_lm).__name__
            return StreamWay("refused", f"{name} can't run on token ids alone: {_said(error)}")


_known: weakref.WeakKeyDictionary[Ways, StreamWay] = weakref.WeakKeyDictionary()


def known_way(ways: Ways, model: Any, causal_lm: Any) -> StreamWay:
    """The way of a view's streams, measured at the first call.

    Args:
        ways: What the view that the model is in is let do.
        model: As in ``stream_way``.
        causal_lm: As in ``stream_way``.
    """
    if not ways.causal:
        return StreamWay("refused", f"{type(causal_lm).__name__} {AHEAD}")
    way = _known.get(ways)
    if way is None:
        way = _known[ways] = stream_way(model, causal_lm)
    return way


def needed_way(ways: Ways, model: Any, causal_lm: Any) -> StreamWay:
    """``known_way`` where there has to be one.

    Raises:
        UnsupportedModelError: there is none.
    """
    way = known_way(ways, model, causal_lm)
    if way.kind == "refused":
        raise UnsupportedModelError(f"{way.note}, so that it can't write text token by token")
    return way


@dataclass(frozen=True, slots=True)
class _Probe:
    """A row, and the logits that the plain forward has after each of its tokens."""

    lm: Any
    row: tuple[int, ...]
    whole: Tensor
    reach: int
    beyond: int | None

    @classmethod
    def of(cls, causal_lm: Any) -> _Probe:
        found, most = limits(causal_lm.config), max_positions(causal_lm)
        reachable = MOST if most is None else min(MOST, most - _FURTHER)
        reach = max((limit for limit in found if limit <= reachable), default=0)
        beyond = max((limit for limit in found if limit > reachable), default=None)
        length = max(_SHORTEST, reach + _FURTHER)
        rows = _rows(causal_lm, length if most is None else min(length, most))
        for row in rows:
            whole = plain_logits(causal_lm, row)
            if bool(torch.isfinite(whole).any(-1).all() and not whole.isnan().any()):
                break
        return cls(causal_lm, row, whole, reach, beyond)

    def way(self, model: Any) -> StreamWay:
        """The first way that agrees with the plain forward."""
        name = type(self.lm).__name__
        refusal = self._refusal()
        if refusal:
            return StreamWay("refused", f"{name} {refusal}")
        plainest = f"each token of a stream is a forward of the whole: {name} "
        reason = self._why_whole()
        if reason:
            return StreamWay("alone", plainest + reason)
        reason = self._why_not_joined(model)
        if not reason:
            return StreamWay("joined", cache="shared")
        takes = cache_argument(self.lm) is not None
        ways: list[Cache] = [*(("given",) if takes else ()), "own", "carried"]
        for cache in ways:
            if self._agrees_alone(cache):
                return StreamWay("alone", f"streams share no cache: {name} {reason}", cache)
        return StreamWay("alone", f"{plainest}keeps nothing that gives the same logits")

    def _refusal(self) -> str:
        begin = len(self.row) - min(3, len(self.row) // 2)
        changed = plain_logits(self.lm, self._changed(begin))
        before = slice(0, begin)
        if self._same(changed[before], self.whole[before]):
            return ""
        again = plain_logits(self.lm, self.row)
        if not self._same(again, self.whole):
            return "gives other values each time"
        if not bool(torch.isfinite(self.whole).any()):
            return ""
        return AHEAD

    def _why_whole(self) -> str:
        if len(self.row) < _SHORTEST:
            return "has too few positions to measure with"
        if not self._has_power():
            return "hardly listens to what is some tokens back"
        shorter = len(self.row) - 4
        depends = not self._same(self._alone(shorter), self._at(shorter - 1))
        if depends and switch(self.lm.config) is None:
            return "gives values that depend on the length"
        return ""

    def _has_power(self) -> bool:
        """Whether the row's early tokens move its last logits by much more than rounding does."""
        late = slice(len(self.row) - 4, None)
        other = self._changed(0)[: late.start] + self.row[late]
        moved = _apart(plain_logits(self.lm, other)[-1], self.whole[-1])
        return moved >= self._limit() * _POWER[self._is_single()]

    def _why_not_joined(self, model: Any) -> str:
        if switch(self.lm.config) is not None:
            return "has other RoPE frequencies in a longer batch"
        if self.beyond is not None:
            return f"has a window of {self.beyond} tokens, which no short row reaches beyond"
        try:
            pairs = list(self._joined(DecodingRows(model, self.lm)))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return f"doesn't decode over plain keys and values ({_said(error)})"
        if all(self._same(found, right) for found, right in pairs):
            return ""
        return "gives a row that is batched with a longer one other logits than alone"

    def _joined(self, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits of rows that join, decode and leave, each with the right ones.

        A short row is joined by two longer ones of unequal length, then leaves them.
        """
        lengths = [5]
        yield from self._pairs(rows.join([self.row[:5]]), lengths)
        yield from self._pairs(rows.step(self._next(lengths)), lengths)
        joining = [self.reach + 9, self.reach + 4]
        yield from self._pairs(rows.join([self.row[:length] for length in joining]), joining)
        lengths += joining
        yield from self._pairs(rows.step(self._next(lengths)), lengths)
        rows.keep([0, 2])
        del lengths[1]
        yield from self._pairs(rows.step(self._next(lengths)), lengths)
        rows.keep([1])
        del lengths[0]
        yield from self._pairs(rows.step(self._next(lengths)), lengths)

    def _next(self, lengths: list[int]) -> list[int]:
        """The next token of each row, which is then one longer."""
        tokens = [self.row[length] for length in lengths]
        lengths[:] = [length + 1 for length in lengths]
        return tokens

    def _pairs(self, logits: Tensor, lengths: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for found, length in zip(logits, lengths, strict=True):
            yield found, self._at(length - 1)

    def _agrees_alone(self, cache: Cache) -> bool:
        """Whether two rows that decode in turn, one across its window, have the right logits."""
        make = _row_maker(self.lm, cache)
        long = max(6, self.reach - 2)
        try:
            # A model that keeps its state in its own modules mixes those of two rows.
            turns = zip(self._fed(make(), long), self._fed(make(), 3), strict=True)
            return all(self._same(*pair) for turn in turns for pair in turn)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False

    def _fed(self, row: Row, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits of a row that decodes a few tokens, each with the right ones."""
        switches = switch(self.lm.config)
        for length in range(first, first + _STEPS):
            fed = self.row[:first] if length == first else [self.row[length - 1]]
            found = row.feed(fed)
            yield found, self._at(length - 1) if switches is None else self._alone(length)

    def _at(self, position: int) -> Tensor:
        return self.whole[position]

    def _alone(self, length: int) -> Tensor:
        """Logits after the row's first tokens, from a forward of these alone."""
        return plain_logits(self.lm, self.row[:length])[-1]

    def _changed(self, begin: int) -> tuple[int, ...]:
        """The row with other tokens from a position on."""
        shifted = self.row[1:] + self.row[:1]
        return self.row[:begin] + shifted[begin:]

    def _same(self, found: Tensor, right: Tensor) -> bool:
        return _apart(found, right) <= self._limit()

    def _limit(self) -> float:
        return _SAME[self._is_single()]

    def _is_single(self) -> bool:
        """Whether the model computes in float32 or better."""
        return bool(self.lm.dtype.itemsize >= 4)


def _apart(found: Tensor, right: Tensor) -> float:
    """The largest distance of two sets of logits, in standard deviations of a row of them."""
    if found.shape != right.shape:
        return float("inf")
    apart = (found - right).abs().where(found != right, 0.0)
    finite = right[torch.isfinite(right)]
    return float(apart.max() / finite.std().clamp(min=1e-6))


def _row_maker(causal_lm: Any, cache: Cache) -> MakeRow:
    """Makes rows that decode alone and keep what ``cache`` says."""
    makers: dict[Cache, Callable[[], Any]] = {
        "given": partial(LibraryRow, causal_lm, given=True),
        "own": partial(LibraryRow, causal_lm, given=False),
        "carried": partial(CarryingRow, causal_lm),
    }
    switches = switch(causal_lm.config)
    settles = switches is not None and switches.keeps_changing
    make = makers.get(cache, partial(WholeRow, causal_lm, settles=settles))
    if switches is None or cache == "none":
        return make
    return partial(SwitchingRow, causal_lm, make, switches)


def _rows(causal_lm: Any, length: int) -> list[tuple[int, ...]]:
    """A few rows of tokens that have no meaning of their own to the model."""
    weight = getattr(causal_lm.get_input_embeddings(), "weight", None)
    size = causal_lm.config.get_text_config().vocab_size if weight is None else len(weight)
    special = special_ids(causal_lm.config)
    rows = []
    for seed in range(4):
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
        plain = [token for token in drawn[: 2 * length + 64] if token not in special] or drawn
        rows.append(tuple(plain[place % len(plain)] for place in range(length)))
    return rows


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__

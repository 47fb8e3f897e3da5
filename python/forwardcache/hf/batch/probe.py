"""What a model may do, measured before its first value: a few short forwards.

The plainest way to score is one row alone, without a cache, a mask or any choice of positions.
Every other way is held to it on a few rows that are made to show a difference, and the first that
agrees is taken; so no list of families says what is right. The rows:

- *own*, whose logits are known from the plainest way. It is longer than the windows, chunks and
  original contexts of up to 256 tokens that the configuration names: what a probe doesn't reach, it
  can't allow.
- *altered*, the same but for one token near its end. Logits before that token show whether the
  model looks ahead, those four tokens after it whether it listens to earlier tokens at all. Weights
  that show neither are let do nothing.
- *short*, its beginning, for models with a limit that the own row goes past: what changes there
  for a long row may not change for a short one beside it.
- *crowd*, longer, one token over and over: whatever depends on the length of a batch, on padding or
  on what other rows hold (a router's capacity, a mean over all tokens) moves beside it.

A model whose forward raises at token ids alone is refused with what it raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.reach import MOST, limits, special_ids
from forwardcache.hf.batch.row import Row
from forwardcache.hf.batch.ways import Rows, Ways

if TYPE_CHECKING:
    from forwardcache.hf.batch.forward import ForwardRunner
    from forwardcache.hf.batch.prefix import SharedPrefix

# Root mean square of a difference of logits, in that of the logits themselves.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4}
# In half precision it is a multiple of the noise that a batch of copies makes, within these bounds.
_TOLERANCE_OF_HALF = {torch.float16: (1e-3, 1e-2)}
_TOLERANCE_OF_OTHERS = (8e-3, 4e-2)
# A few rows may take the very kernels of one.
_NOISES, _COPIES = 3.0, 8
# How many tolerances a token four back has to move them. In half precision the noise of a few
# dozen layers (1.5e-2 in bfloat16) is near what it does (0.25 in a trained model, 0.05 in one of
# random weights), so that more would refuse all of them their batches.
_POWER, _POWER_OF_HALF = 20.0, 1.0

# Tokens before the altered one, at least; how far behind it is looked, and the tokens from it on;
# and by how much the crowd is longer.
_BEFORE, _BACK, _FROM, _LONGER = 6, 4, 6, 3
# Most positions and tokens whose logits are compared, about.
_POSITIONS, _TOKENS = 48, 4096
# Values that stand for "nothing" (chosen by the model's author to be ignored) are far beyond.
_USUAL = 1e6

# What a short row can't show.
_REFUSED = {
    "reformer": "its attention hashes whole texts, so a token's logits depend on the text's length",
    "prophetnet": "its relative positions are counted from what follows a token",
}


def refuse_by_name(causal_lm: Any) -> None:
    """Refuses the families whose fault no short row shows.

    Raises:
        UnsupportedModelError: with the reason.
    """
    family = causal_lm.config.get_text_config().model_type
    if family in _REFUSED:
        raise UnsupportedModelError(f"{family} can't be scored exactly: {_REFUSED[family]}")


def measured_ways(runner: ForwardRunner, rows: Rows) -> Ways:
    """The first way that gives what the plainest one does.

    The caller holds the model's lock and has switched the view.

    Args:
        runner: Runs the model's forward.
        rows: See ``probe_rows``.

    Raises:
        UnsupportedModelError: the model can't run on token ids alone, or gives the same row other
            logits each time.
    """
    plain, head = _plainly(runner, rows)
    scale = Scale.of(runner, plain, rows)
    if not scale.is_usual:
        note = "its logits are not finite, so that nothing can be measured: one row a forward"
        return Ways(rows=rows, notes=[note], is_of_structure=False)
    ways, altered = _first_that_agrees(runner, rows, scale, _short_scale(runner, rows, scale))
    ways.rows = rows
    ways.runs_head_alone = ways.takes_positions and head is not None and scale.is_same(head)
    before = sum(position < rows.at for position in rows.positions)
    ways.causal = scale.is_same(altered, upto=before)
    behind = sum(position < rows.at + _BACK for position in rows.positions)
    if not ways.causal:
        ways.notes.append("a token's logits depend on what follows it: it is not causal")
    elif not scale.shows(altered, behind):
        ways.notes.append("another token four back hardly moves its logits: one row a forward")
        ways.batches, ways.is_of_structure = "single", False
    may_share = ways.causal and ways.batches != "single" and not runner.depends_on_shape
    ways.prefixes = None if may_share else False
    return ways


def shares_prefixes(
    runner: ForwardRunner, rows: Rows, behind: Callable[[Row], SharedPrefix]
) -> bool:
    """Whether rows behind a prefix that was computed once have the logits of the plainest way.

    Args:
        runner: Runs the model's forward.
        rows: Those that its other ways were measured with.
        behind: Computes a prefix.
    """
    half = len(rows.own) // 2
    positions = [position for position in rows.positions if position >= half - 1]
    try:
        crowd = (*rows.own[:half], *rows.crowd[half:])
        found = behind(rows.own[:half]).logits_at([crowd, rows.own], [[len(crowd) - 1], positions])[
            1:
        ]
        plain, _ = runner.plain_logits(rows.own, positions)
    except Exception:
        # Whatever goes wrong in it says no; memory too small for it is so for every prefix.
        return False
    return Scale(plain, _bounds(runner)[1], 0.0).is_same(found)


def agrees_with(runner: ForwardRunner, plain: Tensor, found: Tensor) -> bool:
    """Whether logits [positions, vocab] are known ones, or rounding alone may have moved them.

    Args:
        runner: Whose logits they are.
        plain: Known ones, of the plainest way.
        found: Of another way.
    """
    if plain.shape == found.shape and torch.equal(plain.nan_to_num(), found.nan_to_num()):
        return True
    return Scale(plain, _bounds(runner)[1], 0.0).is_same(found)


def probe_rows(model: Any, causal_lm: Any, *, size: int, most: int | None) -> Rows:
    """Rows for a model.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
        size: Number of ids that it reads.
        most: Most tokens of a row; None for no limit.
    """
    reach = max((each for each in limits(causal_lm.config) if each <= MOST), default=0)
    length = max(_BEFORE, reach) + _FROM
    if most is not None:
        length = max(2, min(length, most - _LONGER))
    ids = _ordinary_ids(causal_lm.config, size, length + 1)
    own, at = ids[:length], max(0, length - _FROM)
    called = _ids_of_adapters(model, size)
    if at > len(called):
        own = (*own[: at - len(called)], *called, *own[at:])
    # What an adapter waits for comes once more there, and last in the crowd.
    again = called if len(called) < length - at else ()
    altered = (*own[:at], ids[length], *again, *own[at + 1 + len(again) :])
    longest = length + _LONGER if most is None else min(length + _LONGER, max(most, 2))
    crowd = ((ids[0],) * longest + called)[-longest:]
    short = own[:_BEFORE] if reach else None
    return Rows(own, altered, crowd, short, at, _compared(length))


def _compared(length: int) -> tuple[int, ...]:
    """Positions to compare: nearly all of a short row, of a longer one its end and some others.

    One at the beginning is left out, so that logits of other positions than asked for are seen.
    """
    end = range(max(0, length - _POSITIONS // 2), length)
    step = max(1, 2 * length // _POSITIONS)
    return tuple(sorted({*range(0, length, step), *end} - {step}))


class Scale:
    """How far logits [positions, vocab] may be from the known ones of the own row."""

    def __init__(self, plain: Tensor, tolerance: float, power: float) -> None:
        known = _thinned(plain)
        self._usual = known.isfinite() & (known.abs() < _USUAL)
        self.is_usual = bool(self._usual.any(-1).all())
        self._known = self._centred(known, slice(None))
        self._spread = self._rms(self._known, slice(None)).clamp(min=1e-12)
        self.tolerance = tolerance
        self._power = power

    @classmethod
    def of(cls, runner: ForwardRunner, plain: Tensor, rows: Rows) -> Scale:
        """The scale of the own row, whose logits alone are ``plain`` [positions, vocab]."""
        least, most = _bounds(runner)
        if least == most:
            return cls(plain, least, _POWER)
        copies = _tried(runner, Ways(batches="equal_lengths"), rows, [rows.own] * _COPIES)
        noise = math.inf if copies is None else cls(plain, most, 0.0).apart(copies[0])
        return cls(plain, min(max(least, _NOISES * noise), most), _POWER_OF_HALF)

    def of_another(self, plain: Tensor) -> Scale:
        """The same for another row."""
        return Scale(plain, self.tolerance, self._power)

    def apart(self, found: Tensor, begin: int = 0, upto: int | None = None) -> float:
        """The largest difference at one position, in the logits' own deviation.

        Infinite where it can't be told: another shape, or a NaN.
        """
        part, found = slice(begin, upto), _thinned(found)
        if found.shape != self._usual.shape:
            return math.inf
        moved = self._centred(found[part], part) - self._known[part]
        apart = (self._rms(moved, part) / self._spread[part]).max() if len(moved) else moved.sum()
        return math.inf if bool(apart.isnan()) else float(apart)

    def is_same(self, found: Tensor, upto: int | None = None) -> bool:
        """Whether rounding alone may have made ``found`` of the known logits."""
        return self.apart(found, 0, upto) <= self.tolerance

    def shows(self, altered: Tensor, behind: int) -> bool:
        """Whether the token that was altered is seen by those well behind it."""
        begin = min(behind, len(self._known) - 1)
        return self.apart(altered, begin) >= self._power * self.tolerance

    def _centred(self, logits: Tensor, part: slice) -> Tensor:
        usual = self._usual[part]
        kept = logits.masked_fill(~usual, 0.0)
        mean = kept.sum(-1, keepdim=True) / usual.sum(-1, keepdim=True).clamp(min=1)
        return (kept - mean).masked_fill(~usual, 0.0)

    def _rms(self, values: Tensor, part: slice) -> Tensor:
        return (values.square().sum(-1) / self._usual[part].sum(-1).clamp(min=1)).sqrt()


def _bounds(runner: ForwardRunner) -> tuple[float, float]:
    """The least and the most that rounding is taken for."""
    is_reduced = torch.get_float32_matmul_precision() != "highest" or any(
        torch.is_autocast_enabled(device) for device in ("cpu", "cuda")
    )
    tolerance = None if is_reduced else _TOLERANCE.get(runner.dtype)
    if tolerance is not None:
        return tolerance, tolerance
    return _TOLERANCE_OF_HALF.get(runner.dtype, _TOLERANCE_OF_OTHERS)


def _thinned(logits: Tensor) -> Tensor:
    """Logits of some thousand tokens, evenly spaced, in float64: as good as all of them."""
    return logits[:, :: max(1, logits.shape[-1] // _TOKENS)].double()


def _plainly(runner: ForwardRunner, rows: Rows) -> tuple[Tensor, Tensor | None]:
    """Logits in the plainest way, and from the head alone."""
    try:
        return runner.plain_logits(rows.own, rows.positions)
    except UnsupportedModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        words = str(error).strip().splitlines() or [""]
        raise UnsupportedModelError(
            f"{runner.name} can't run on token ids alone: {type(error).__name__}: {words[0]}"
        ) from error


def _short_scale(runner: ForwardRunner, rows: Rows, scale: Scale) -> Scale | None:
    """The scale of the short row, if there is one."""
    if rows.short is None:
        return None
    plain, _ = runner.plain_logits(rows.short, range(len(rows.short)))
    return scale.of_another(plain)


def _first_that_agrees(
    runner: ForwardRunner, rows: Rows, scale: Scale, short: Scale | None
) -> tuple[Ways, Tensor]:
    """The first way that agrees, and the logits of the altered row."""
    notes: list[str] = []
    for ways in _candidates(runner, notes):
        others: list[Row] = []
        if ways.batches != "equal_lengths":
            others = [rows.crowd, *([rows.short] if rows.short else [])]
        found = _tried(runner, ways, rows, [*others, rows.own, rows.altered])
        if found is None:
            continue
        apart = scale.apart(found[-2])
        if short is not None and others:
            apart = max(apart, short.apart(found[1]))
        if apart <= scale.tolerance:
            return ways, found[-1]
        notes.append(
            f"{_NAMES[ways.batches]} rows have other logits than single ones ({apart:.1g})"
        )
    for ways in (Ways(notes=notes), Ways(notes=notes, takes_positions=False)):
        found = _tried(runner, ways, rows, [rows.own])
        if found is not None and scale.is_same(found[0]):
            altered = _tried(runner, ways, rows, [rows.altered])
            return ways, found[0] if altered is None else altered[0]
    raise UnsupportedModelError(
        f"{runner.name} gives the same tokens other logits each time: no value of it can be kept"
    )


_NAMES = {
    "packed": "packed",
    "padded": "padded",
    "equal_lengths": "batched",
    "single": "single",
}


def _candidates(runner: ForwardRunner, notes: list[str]) -> Iterator[Ways]:
    """Ways from the fastest to the plainest of several rows."""
    if not runner.depends_on_shape:
        if runner.may_pack():
            yield Ways(batches="packed", notes=notes)
        yield Ways(batches="padded", notes=notes)
        yield Ways(batches="padded", is_masked=True, notes=notes)
    yield Ways(batches="equal_lengths", notes=notes)
    yield Ways(batches="equal_lengths", takes_positions=False, notes=notes)


def _tried(
    runner: ForwardRunner, ways: Ways, rows: Rows, fed: Sequence[Row]
) -> list[Tensor] | None:
    """Logits of the rows that are fed; None where the model can't go that way."""
    positions = [_asked(row, rows) for row in fed]
    try:
        # A copy: whatever shows in it is no finding about ways that agreed before.
        return runner.logits_in(replace(ways), fed, positions)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        ways.notes.append(f"{_NAMES[ways.batches]} rows: {type(error).__name__}")
        return None


def _asked(row: Row, rows: Rows) -> Sequence[int]:
    """Positions of a row whose logits are asked for."""
    if row == rows.crowd:
        return [len(row) - 1]
    return range(len(row)) if row == rows.short else rows.positions


def _ordinary_ids(config: Any, size: int, count: int) -> tuple[int, ...]:
    """Different ids, none of which the configuration has a meaning for (padding, images)."""
    special = special_ids(config)
    ids = [each for each in range(size) if each not in special] or list(range(size))
    # Steps that share no factor with the number of ids come back to each of them once.
    step = next(each for each in (7919, 104_729, 1) if len(ids) % each) if len(ids) > 1 else 1
    return tuple(ids[(3 + step * n) % len(ids)] for n in range(count))


def _ids_of_adapters(model: Any, size: int) -> tuple[int, ...]:
    """Ids that an adapter waits for, or has trained: it acts only where they are."""
    found: list[int] = []
    for config in getattr(model, "peft_config", {}).values():
        for key, value in vars(config).items():
            if "token" in key and isinstance(value, list | tuple):
                found += [each for each in value if type(each) is int and 0 <= each < size]
    return tuple(dict.fromkeys(found))[:4]

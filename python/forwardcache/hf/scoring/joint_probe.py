"""Whether views of one adapter may share a forward, and whether that saves time: measured.

Rows of base, ft and two factors are run in one forward, of one length and with a longer row before
them, and held to the same rows alone, each in its view. Noise stands in for the adapter meanwhile:
of a trained one that is weak, or of a new one that is nothing yet, no fault could be seen. Whatever
isn't a product times the scaling shows: as other logits, as an error, or as a shape in which the
rows can't be told.

Three forwards are timed: one row in base, one in ft, and the rows together. They give what a
forward costs beyond its tokens, in either view, and what a token costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.probe import Scale
from forwardcache.hf.batch.row import Row
from forwardcache.hf.batch.row_factors import RowFactors
from forwardcache.hf.batch.ways import Rows, Ways
from forwardcache.hf.model.null_noise import forget_noise
from forwardcache.hf.model.switch import rescaled, switched
from forwardcache.hf.spec import BASE, ViewSpec, null, scaled

FORWARDS = 16
"""About how many short forwards a measurement takes."""

# Of 1 on its way through a layer, 64 to 4,096 wide, such noise makes 0.1 to 10.
_NOISE = null(0, 0.06, 1.0)
_FACTORS = (0.0, 1.0, 0.5, -1.5)
# Forwards are timed this often, or as long; a slow one is told sooner from noise.
_TIMED, _TIMED_S = range(2, 6), 0.25
# A forward that takes four fifths of the time isn't worth another batch.
_LEAST_GAIN = 1.2


@dataclass(frozen=True, slots=True)
class JointVerdict:
    """What a forward of rows in several views is let do, and what it saves.

    Attributes:
        may_share: Whether its rows have the logits that they have alone, and it saves time at all.
        base_s: What a forward in base costs beyond its tokens, seconds.
        adapter_s: What one with the adapter costs beyond them.
        token_s: What a token costs in it.
        note: What was found, in words for users.
        is_of_structure: Whether it is so for every model of this structure; not where memory was
            too small, or its weights show nothing.
    """

    may_share: bool
    base_s: float
    adapter_s: float
    token_s: float
    note: str
    is_of_structure: bool = True

    def saves(self, *, of_base: int, of_adapter: int, joint: int, tokens: int) -> bool:
        """Whether joint forwards take clearly less time than those of each view.

        Args:
            of_base: Forwards in base without them.
            of_adapter: Forwards in other views without them.
            joint: Forwards with rows of all views.
            tokens: Of all rows in all views.
        """
        read = tokens * self.token_s
        alone = of_base * self.base_s + of_adapter * self.adapter_s + read
        return self.may_share and alone > _LEAST_GAIN * (joint * self.adapter_s + read)


def refused(why: str, *, is_of_structure: bool = True) -> JointVerdict:
    """The verdict on a model whose views run one after the other."""
    note = f"its views run one after the other: {why}"
    return JointVerdict(False, 0.0, 0.0, 0.0, note, is_of_structure)


def measured_jointly(
    model: nn.Module, runner: ForwardRunner, ways: Ways, adapted: ViewSpec
) -> JointVerdict:
    """The verdict on views of one adapter.

    The caller holds the model's lock.

    Args:
        model: What is called: the model, or the PEFT model around it.
        runner: Runs its forward.
        ways: What the views are let do.
        adapted: The view ``ft`` of the adapter.
    """
    if ways.rows is None or ways.batches == "single":
        return refused("rows don't share a forward")
    own, runner.ways = runner.ways, replace(ways)
    noise = replace(_NOISE, adapter=adapted.adapter)
    try:
        with switched(model, noise), torch.inference_mode():
            return _Probe(model, runner, ways.rows, adapted).verdict()
    except Exception as error:
        if is_out_of_memory(error):
            return refused("memory was too small to measure more", is_of_structure=False)
        return refused(f"together they raise {type(error).__name__}")
    finally:
        runner.ways = own
        forget_noise(model, noise)


@contextmanager
def row_factors(
    model: nn.Module, runner: ForwardRunner, rows: Sequence[Row], factors: Sequence[float]
) -> Iterator[None]:
    """While it lasts, a forward of ``rows`` multiplies the adapter in each by its factor.

    The caller holds the model's lock and has switched the model to the adapter's view ``ft``.
    """
    runner.row_factors = RowFactors(rows, factors)
    try:
        with rescaled(model, runner.row_factors.of):
            yield
    finally:
        runner.row_factors = None


class _Probe:
    def __init__(
        self, model: nn.Module, runner: ForwardRunner, rows: Rows, adapted: ViewSpec
    ) -> None:
        self._model = model
        self._runner = runner
        self._rows = rows
        others = [replace(scaled(factor), adapter=adapted.adapter) for factor in _FACTORS[2:]]
        self._specs = [BASE, adapted, *others]

    def verdict(self) -> JointVerdict:
        rows = self._rows
        scales = self._scales()
        if scales is None:
            return refused("noise in the adapter hardly moves its logits", is_of_structure=False)
        apart = self._apart(scales, [rows.own] * len(_FACTORS), _FACTORS)
        if apart == 0.0 and self._runner.ways.batches != "equal_lengths":
            mixed = [rows.crowd, *[rows.own] * len(_FACTORS)]
            apart = self._apart(scales, mixed, (_FACTORS[-1], *_FACTORS))
        if apart:
            return refused(f"together they have other logits than alone ({apart:.1g})")
        return self._timed()

    def _scales(self) -> list[Scale] | None:
        """How far each view's logits may be from those alone; None if it can't be told whose."""
        logits = [self._alone(spec) for spec in self._specs]
        first = Scale.of(self._runner, logits[0], self._rows)
        scales = [first, *map(first.of_another, logits[1:])]
        for at, scale in enumerate(scales):
            others = [*logits[:at], *logits[at + 1 :]]
            if not scale.is_usual or not all(scale.shows(other, 0) for other in others):
                return None
        return scales

    def _alone(self, spec: ViewSpec) -> Tensor:
        own = self._rows.own
        with switched(self._model, spec):
            return self._runner.plain_logits(own, self._rows.positions)[0]

    def _apart(
        self, scales: Sequence[Scale], rows: Sequence[Row], factors: Sequence[float]
    ) -> float:
        """The largest difference of an own row's logits from those alone; 0.0 within rounding."""
        found = self._together(rows, factors)[-len(scales) :]
        pairs = zip(scales, found, strict=True)
        return max([scale.apart(each) for scale, each in pairs if not scale.is_same(each)] or [0.0])

    def _together(self, rows: Sequence[Row], factors: Sequence[float]) -> list[Tensor]:
        own, positions = self._rows.own, self._rows.positions
        asked = [positions if row == own else [len(row) - 1] for row in rows]
        with row_factors(self._model, self._runner, rows, factors):
            return self._runner.logits_in(self._runner.ways, rows, asked)

    def _timed(self) -> JointVerdict:
        base, adapted = (self._timer([spec]) for spec in self._specs[:2])
        joint = self._timer(self._specs)
        turns: list[tuple[float, float, float]] = []
        while len(turns) < _TIMED.start or (
            len(turns) < _TIMED.stop and sum(map(sum, turns)) < _TIMED_S
        ):
            turns.append((base(), adapted(), joint()))
        base_s, adapted_s, joint_s = (min(each) for each in zip(*turns, strict=True))
        tokens = len(self._rows.own)
        more = (len(_FACTORS) - 1) * tokens
        token_s = max(0.0, joint_s - adapted_s) / more
        of_base, of_adapter = (max(0.0, each - token_s * tokens) for each in (base_s, adapted_s))
        note = "its views share forwards of short prompts"
        verdict = JointVerdict(True, of_base, of_adapter, token_s, note)
        if verdict.saves(of_base=1, of_adapter=3, joint=1, tokens=tokens + more):
            return verdict
        return refused("a forward of several takes as long")

    def _timer(self, specs: Sequence[ViewSpec]) -> Callable[[], float]:
        """Seconds of a forward of the own row's last position in these views."""
        rows = [self._rows.own] * len(specs)
        alone = specs[0] if len(specs) == 1 else None
        clock = _clock_of(self._runner)

        def once() -> float:
            began = clock()
            with switched(self._model, alone or self._specs[1]), ExitStack() as stack:
                if alone is None:
                    factors = row_factors(self._model, self._runner, rows, _FACTORS)
                    stack.enter_context(factors)
                logits = self._runner.last_logits(rows)
            # A device that works on its own is done once a number is here.
            logits.sum().item()
            return clock() - began

        return once


def _clock_of(runner: ForwardRunner) -> Callable[[], float]:
    """What tells the seconds; of one thread that has to share its processor, its own."""
    is_alone = runner.device == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if is_alone else time.perf_counter

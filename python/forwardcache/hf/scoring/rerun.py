"""A view that is run once more, rounded at random: what two of them differ by is rounding alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.rounding import rounded_anew
from forwardcache.hf.scoring.loaded import LoadedModel
from forwardcache.hf.spec import ViewSpec


@dataclass(frozen=True, slots=True)
class Rerun:
    """A view with its forwards rounded at random.

    Attributes:
        spec: The view.
        seed: From 0 on. It decides what is drawn, with the number.
        number: Which of the reruns it is, from 0 on.
    """

    spec: ViewSpec
    seed: int
    number: int

    @property
    def view_id(self) -> str:
        """How what was run for it is written down."""
        return f"{self.spec.view_id}_rerun_{self.number}"


Run = ViewSpec | Rerun
"""What can be compared: a view, or a rerun of one."""


def view_of(run: Run) -> ViewSpec:
    """The view that the model is in for ``run``."""
    return run.spec if isinstance(run, Rerun) else run


def checked_run(model: LoadedModel, run: Run) -> Run:
    """``run`` with the view that is run for its own; the caller holds the model's lock.

    Raises:
        UnsupportedModelError: the model can't give it exactly.
        AdapterError: it needs an adapter and there is none.
    """
    spec = model.runs_as(view_of(run))
    return replace(run, spec=spec) if isinstance(run, Rerun) else spec


@contextmanager
def as_run(run: Run, model: nn.Module, causal_lm: Any, runner: ForwardRunner) -> Iterator[None]:
    """While it lasts, forwards are rounded as in ``run``; the model is in its view already.

    Not for the head alone: it is run on states that were rounded when the body gave them.

    Raises:
        UnsupportedModelError: the model's blocks can't be told.
    """
    if not isinstance(run, Rerun):
        yield
        return
    seed = run.seed, run.number
    with rounded_anew(model, causal_lm, runner.body, runner.dtype, seed):
        yield

"""A view: one way to run a model, in force inside its ``with``."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from forwardcache.errors import (
    ForwardCacheError,
    InvalidInputError,
    NestedViewError,
    StaleViewError,
)
from forwardcache.hf.model.norms import update_norm
from forwardcache.hf.scoring.beside_base import run_base_for
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.hf.scoring_methods import Operations
from forwardcache.hf.spec import ViewSpec
from forwardcache.operation import Operation

# The views whose ``with`` is open in this thread or context.
_entered: ContextVar[tuple[HFView, ...]] = ContextVar("forwardcache_entered_views", default=())


class HFView(Operations):
    """One way to run a model: ``with backend.as_base() as base: base.next_token_dist(...)``.

    Made by the ``as_…`` methods of ``HFBackend``. Entering switches nothing. The model is switched
    when a value has to be computed, and is as before when the call returns. A view serves several
    threads; their forwards take turns.

    Raises:
        StaleViewError: a method is called before the view's ``with`` or after it, or a view is
            entered twice.
        NestedViewError: a view is entered, or used, inside another view's ``with`` of the same
            model in the same thread or context.
        UnsupportedModelError: on entering, if this model can't give the view exactly; with its
            first value, if the model gave it before and was changed since.
        AdapterError: likewise, if the view needs an adapter and the model has none.
    """

    def __init__(self, scorer: Scorer, spec: ViewSpec) -> None:
        self._scorer = scorer
        self._spec = spec
        self._stage = "not entered yet"

    @property
    def spec(self) -> ViewSpec:
        """What the view is."""
        return self._spec

    @property
    def view_id(self) -> str:
        """The view's name; a scaled view with λ 0 or 1 is traced as ``base`` or ``ft``."""
        return self._spec.view_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.view_id}, {self._stage}>"

    def __enter__(self) -> HFView:
        if self._stage != "not entered yet":
            raise StaleViewError(f"view {self.view_id} is {self._stage}; ask for a new one")
        refuse_inside_view(self._scorer)
        self._scorer.enter(self._spec)
        self._stage = "in force"
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stage = "left"
        # By identity, not by the variable's token: a generator may leave in another context.
        _entered.set(tuple(view for view in _entered.get() if view is not self))

    def update_norm(self) -> float | None:
        """The Frobenius norm of what the view adds to base's weights, all modules together.

        Two changes of the model are compared at equal strength only if this is equal too.

        Returns:
            The norm; 0.0 for base. None where the view changes more than LoRA's A and B (DoRA,
            ``modules_to_save``, trained tokens or biases).
        """
        scorer = self._in_force()
        with scorer.lock:
            # The model may have been changed since the view was entered.
            scorer.runs_as(self._spec)
            with scorer.put_on(self._spec) as model:
                return update_norm(model, self._spec)

    def model_state(self) -> bytes:
        """Bytes that no other state of the model has: weights, adapter, tokenizer, settings.

        Where adapters have names, of the base model, which all views stand on.
        """
        scorer = self._in_force()
        with scorer.lock:
            return scorer.standing_key()

    def run_base_for(
        self, op: Operation, of_base: Operation, items: Sequence[Any]
    ) -> dict[int, ForwardCacheError]:
        """Runs base, past cache and trace, for what this view has to be run beside it.

        Args:
            op: What this view will be asked; an item whose value is cached or stored is left out.
            of_base: What base is asked.
            items: What both take.

        Returns:
            By position the errors of those that base couldn't be run on.
        """
        return run_base_for(self._in_force(), self._spec, op, of_base, items)

    def _in_force(self) -> Scorer:
        if self._stage != "in force":
            raise StaleViewError(f"view {self.view_id} is {self._stage}; ask for a new one")
        refuse_inside_view(self._scorer, but=self)
        return self._scorer


def refuse_inside_view(scorer: Scorer, but: HFView | None = None) -> None:
    """Refuses to go on inside another view's ``with`` of the same model.

    Raises:
        NestedViewError: one other than ``but`` is open in this thread or context.
    """
    for view in _entered.get():
        # A context copied inside a `with` may still hold a view that was left since.
        in_force = view._stage == "in force" and view._scorer.lock is scorer.lock
        if view is not but and in_force:
            raise NestedViewError(
                f"inside the `with` of view {view.view_id}: leave it first, or use that view"
            )


def check_views(views: Sequence[HFView], scorer: Scorer) -> None:
    """Refuses views that can't be scored side by side.

    Raises:
        InvalidInputError: one belongs to another backend, or two have the same id.
    """
    ids = [view.view_id for view in views]
    for view, view_id in zip(views, ids, strict=True):
        if view._scorer is not scorer:
            raise InvalidInputError(f"view {view_id} belongs to another backend")
        if ids.count(view_id) > 1:
            raise InvalidInputError(
                f"two views have the id {view_id}; score them in calls of their own"
            )

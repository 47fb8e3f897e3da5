"""Rows computed again, of whichever command: what they are, and how far others are from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from forwardcache.jobs.diff.compared import differences, first_errors
from forwardcache.jobs.diff.plan import make_plan
from forwardcache.jobs.diff.rows import ARRAYS, COLUMNS, rows_of
from forwardcache.jobs.diff.token_texts import TokenTexts
from forwardcache.jobs.job import Scoring
from forwardcache.jobs.planning import make_job
from forwardcache.jobs.rows import Row
from forwardcache.jobs.session import Session
from forwardcache.jobs.verify.others import other_rows
from forwardcache.jobs.verify.plan import Plan
from forwardcache.operation import Apart, divergence_tolerances, field_apart

# More than a bound of float32 allows of one flip, and less than a wide one or one of half precision
# allows: nearly equal tokens may change places there.
_TOLERANCES_OF_FLIPS = 5000.0
_DIVERGENCES = ("kl", "kl_reverse", "js")
_FLIPS = ("same_top", "top_k_agreement")


class Again(Protocol):
    """Rows of a run, computed here."""

    @property
    def head(self) -> Mapping[str, str]:
        """Fields that every row has with the same value."""

    @property
    def columns(self) -> Collection[str]:
        """Names of the fields that are computed."""

    def rows(self) -> Iterator[Row]:
        """The rows, in the order of the run."""

    def apart(self, kept: Row, fresh: Row) -> list[Apart]:
        """How far a row that was read is from the one that was computed."""


def again_of(session: Session, plan: Plan) -> Again:
    """The rows of a plan.

    Raises:
        InvalidInputError: a prompt can't be scored here.
    """
    is_diff = plan.recorded.reference is not None
    return _OfDiff(session, plan) if is_diff else _OfScore(session, plan)


class _OfScore:
    """Rows of ``score``."""

    def __init__(self, session: Session, plan: Plan) -> None:
        recorded = plan.recorded
        job = make_job(session, plan.source, recorded.op, recorded.views, top_k=recorded.top_k)
        self._scoring = Scoring(session.backend, session.recorder, job)
        self._op = job.operation
        self.head = {"op": recorded.op}
        self.columns = self._op.row_columns().keys()

    def rows(self) -> Iterator[Row]:
        for chunk in self._scoring.job.chunks():
            yield from self._scoring.rows_of(chunk)[0]

    def apart(self, kept: Row, fresh: Row) -> list[Apart]:
        return self._op.apart(kept, fresh)


class _OfDiff:
    """Rows of ``diff``."""

    def __init__(self, session: Session, plan: Plan) -> None:
        recorded = plan.recorded
        if recorded.reference is None:
            raise TypeError("rows of diff are held against a reference")
        windows = bool(recorded.text_options.get("windows"))
        self._backend, self._loading = session.backend, plan.loading
        self._others = list(zip(plan.others, recorded.others, strict=True))
        self._plan = make_plan(
            session, plan.source, recorded.views, recorded.reference, in_windows=windows
        )
        self.head = {"reference": recorded.reference.name}
        self.columns = COLUMNS.keys()

    def rows(self) -> Iterator[Row]:
        texts = TokenTexts(self._backend.tokenizer)
        for chunk in self._plan.chunks() if self._plan.views else ():
            found = differences(self._backend, self._plan, self._plan.views, list(chunk))
            for at, error in first_errors(found).items():
                self._plan.skips(chunk[at], error)
            for place, at in enumerate(chunk):
                of_text = {name: values[place] for name, values in found.items()}
                tokens = texts.of(next(iter(of_text.values())).token_ids.tolist())
                yield from rows_of(
                    self._plan.prompts[at], self._plan.reference.name, of_text, tokens
                )
        if self._others:
            yield from other_rows(self._backend, self._plan, self._others, self._loading)

    def apart(self, kept: Row, fresh: Row) -> list[Apart]:
        plain = [name for name in ARRAYS if name not in (*_DIVERGENCES, *_FLIPS)]
        return [
            *(_worst(name, kept.get(name), fresh[name]) for name in _DIVERGENCES),
            *(field_apart(name, ARRAYS[name], kept.get(name), fresh[name]) for name in plain),
            *(_flips(name, kept.get(name), fresh[name]) for name in _FLIPS),
            field_apart("tokens", COLUMNS["tokens"], kept.get("tokens"), fresh["tokens"]),
        ]


def _worst(name: str, kept: Any, fresh: list[float | None]) -> Apart:
    """The position at which a divergence is furthest off, for its size."""
    if not isinstance(kept, list) or len(kept) != len(fresh):
        return Apart(name, kept, fresh, math.inf)
    places = (
        field_apart(f"{name}[{at}]", "float64", one, other, divergence_tolerances(other))
        for at, (one, other) in enumerate(zip(kept, fresh, strict=True))
    )
    return max(places, key=lambda each: each.nats, default=Apart(name, kept, fresh, 0.0))


def _flips(name: str, kept: Any, fresh: list[Any]) -> Apart:
    """At how many positions the most likely tokens are others."""
    if not isinstance(kept, list) or len(kept) != len(fresh):
        return Apart(name, kept, fresh, math.inf)
    places = [
        field_apart(f"{name}[{at}]", "float64", one, other)
        for at, (one, other) in enumerate(zip(kept, fresh, strict=True))
    ]
    if any(type(one) is not type(other) for one, other in zip(kept, fresh, strict=True)):
        return Apart(name, kept, fresh, math.inf)
    # Rows have the digits of float32.
    flipped = [each for each in places if each.difference > 1e-6]
    first = flipped[0] if flipped else Apart(name, kept, fresh, 0.0)
    return Apart(
        first.field, first.kept, first.fresh, len(flipped), _TOLERANCES_OF_FLIPS, "positions"
    )

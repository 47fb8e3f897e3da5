"""Texts through views, chunk by chunk; rows go out as they are done, positions are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forwardcache.errors import InvalidInputError, UnsupportedModelError
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.diff.rows import rows_of
from forwardcache.jobs.diff.token_texts import TokenTexts
from forwardcache.jobs.results import RowSink
from forwardcache.jobs.skips import Skipped
from forwardcache.jobs.views import View
from forwardcache.scoring import PositionDifferences

Compared = dict[str, list[PositionDifferences]]
"""By name of a view: what was found of each text."""


@dataclass(slots=True)
class Found:
    """What a comparison found.

    Attributes:
        items: By name of each view: the differences of each text that was compared.
        positions: The position in the plan of each of these texts.
        skipped: Texts that the model failed on.
        rows: Rows that were written.
    """

    items: Compared
    positions: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    rows: int = 0


def compared(backend: Any, plan: DiffPlan, sink: RowSink | None) -> Found:
    """Compare all texts of a plan.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.
        sink: Where rows go; None for nowhere.

    Raises:
        InvalidInputError: a text can't be compared and isn't to be skipped.
        MachineError: memory is too small for one that isn't to be skipped.
    """
    found = Found({view.name: [] for view in plan.views})
    texts = None if sink is None else TokenTexts(backend.tokenizer)
    for chunk in plan.chunks():
        of_view = differences(backend, plan, plan.views, list(chunk))
        failed = first_errors(of_view)
        found.skipped += [plan.skips(chunk[at], error) for at, error in failed.items()]
        good = [at for at in range(len(chunk)) if at not in failed]
        for name, items in of_view.items():
            found.items[name] += [items[at] for at in good]
        found.positions += [chunk[at] for at in good]
        if sink is None or texts is None:
            continue
        for at in good:
            of_text = {name: items[at] for name, items in of_view.items()}
            tokens = texts.of(next(iter(of_text.values())).token_ids.tolist())
            rows = rows_of(plan.prompts[chunk[at]], plan.reference.name, of_text, tokens)
            sink.write(rows)
            found.rows += len(rows)
    return found


def check_views(backend: Any, plan: DiffPlan, *, detect: bool) -> None:
    """Refuse views that the model can't give, before anything is run for the others.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.
        detect: Whether the adapter is going to be scaled as well.

    Raises:
        UnsupportedModelError: a view can't be exact, or isn't causal.
        InvalidInputError: the adapter is going to be scaled and can't be.
    """
    differences(backend, plan, plan.views, [])
    if detect:
        try:
            differences(backend, plan, [View("scaled", lam=0.5)], [])
        except UnsupportedModelError as error:
            raise InvalidInputError(f"--detect scales the adapter: {error}") from error


def differences(
    backend: Any, plan: DiffPlan, views: Sequence[View], positions: Sequence[int]
) -> dict[str, list[Any]]:
    """By name of a view: the differences of each text, or its error.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared, and against what.
        views: Those that are.
        positions: The texts, by their position in the plan.
    """
    texts = [plan.texts[at] for at in positions]
    completions = [plan.prompts[at].completion for at in positions]
    found: dict[str, list[Any]] = {}
    for group in _of_different_ids(backend, views):
        asked: dict[str, Any] = {name: view.of(backend) for name, view in group.items()}
        values = backend.compare(
            texts,
            list(asked.values()),
            reference=plan.reference.of(backend),
            completions=completions,
            on_error="return",
        )
        found |= {name: values[view.view_id] for name, view in asked.items()}
    return {view.name: found[view.name] for view in views}


def _of_different_ids(backend: Any, views: Sequence[View]) -> list[dict[str, View]]:
    """The views in as few groups as have no id twice: λ = 1.001 and 0.996 are ``scaled_1.00``."""
    groups: list[dict[str, View]] = []
    ids: list[set[str]] = []
    for view in views:
        made: Any = view.of(backend)
        at = next((at for at, known in enumerate(ids) if made.view_id not in known), len(ids))
        if at == len(ids):
            groups.append({})
            ids.append(set())
        groups[at][view.name] = view
        ids[at].add(made.view_id)
    return groups


def first_errors(of_view: Mapping[str, Sequence[Any]]) -> dict[int, Exception]:
    """By place of a text that has an error in any view: the first of them.

    Args:
        of_view: By name of a view: what was found of each text.
    """
    errors: dict[int, Exception] = {}
    for values in of_view.values():
        for at, value in enumerate(values):
            if isinstance(value, Exception):
                errors.setdefault(at, value)
    return dict(sorted(errors.items()))

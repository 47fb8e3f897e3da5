"""Texts through views, chunk by chunk; rows go out as they are done, positions are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forwardcache.errors import InvalidInputError, UnsupportedModelError
from forwardcache.jobs.diff.begun import Begun
from forwardcache.jobs.diff.found import Found
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.diff.resume import note_beyond_json
from forwardcache.jobs.diff.rows import rows_of
from forwardcache.jobs.diff.token_texts import TokenTexts
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.views import View
from forwardcache.scoring import PositionDifferences


def compared(backend: Any, plan: DiffPlan, begun: Begun) -> Found:
    """Compare all texts of a plan that aren't done yet.

    Args:
        backend: The ``HFBackend``.
        plan: What is compared.
        begun: What is known, which grows, and where rows go.

    Raises:
        InvalidInputError: a text can't be compared and isn't to be skipped.
        MachineError: memory is too small for one that isn't to be skipped.
    """
    found = begun.found
    if not plan.views:
        return found
    texts = TokenTexts(backend.tokenizer)
    for chunk in plan.chunks():
        if chunk.stop <= begun.done:
            continue
        of_view = differences(backend, plan, plan.views, list(chunk))
        failed = first_errors(of_view)
        skipped = [plan.skips(chunk[at], error) for at, error in failed.items()]
        good = [at for at in range(len(chunk)) if at not in failed]
        for name, items in of_view.items():
            found.items[name] += [items[at] for at in good]
        found.positions += [chunk[at] for at in good]
        found.skipped += skipped
        if begun.part is not None:
            begun.part.add_skipped(skipped)
            for at in good:
                of_text = {name: items[at] for name, items in of_view.items()}
                _write(begun, plan.prompts[chunk[at]], plan.reference.name, of_text, texts)
    return found


def _write(
    begun: Begun,
    prompt: Prompt,
    reference: str,
    of_text: Mapping[str, PositionDifferences],
    texts: TokenTexts,
) -> None:
    """The rows of one text; what they can't hold is noted first."""
    tokens = texts.of(next(iter(of_text.values())).token_ids.tolist())
    rows = rows_of(prompt, reference, of_text, tokens)
    note_beyond_json(begun.kept, rows, list(of_text.values()))
    assert begun.part is not None
    begun.part.write(rows)
    begun.found.rows += len(rows)


def writer(
    backend: Any, plan: DiffPlan, begun: Begun
) -> Callable[[int, Mapping[str, PositionDifferences]], None] | None:
    """What writes the rows of a text, by its position in the plan; None where rows go nowhere.

    Args:
        backend: The reference's; its tokenizer is asked.
        plan: What is compared.
        begun: Where rows go.
    """
    if begun.part is None:
        return None
    texts = TokenTexts(backend.tokenizer)

    def write(at: int, of_text: Mapping[str, PositionDifferences]) -> None:
        _write(begun, plan.prompts[at], plan.reference.name, of_text, texts)

    return write


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
    whole = dict.fromkeys(view.adapter for view in plan.views if view.is_whole_adapter)
    for adapter in whole if detect else ():
        try:
            differences(backend, plan, [View("scaled", lam=0.5, adapter=adapter)], [])
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

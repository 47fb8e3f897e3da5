"""Rows of other models: what a run says of them, and the rows computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.diff.rows import rows_of
from forwardcache.jobs.diff.token_texts import TokenTexts
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.other_models import (
    OtherModel,
    check_other_vocabulary,
    load_other,
)
from forwardcache.jobs.reasons import shown
from forwardcache.jobs.rows import Row

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend

_KINDS: Mapping[str, tuple[type, ...]] = {
    "view": (str,), "folder": (str,), "digest": (str, type(None)), "dtype": (str,),
    "skipped": (list,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecordedOther:
    """What a run says of another model that it has rows of.

    Attributes:
        view: What its view is called.
        folder: Where it was; a name on the hub where it was no folder.
        digest: Of the folder's contents; None where it was none.
        dtype: That it was computed in.
        skipped: Lines that it has no rows of.
    """

    view: str
    folder: str
    digest: str | None
    dtype: str
    skipped: frozenset[int]


def recorded_others(facts: Mapping[str, Any], where: str) -> tuple[RecordedOther, ...]:
    """The other models that a run has rows of; not those that it couldn't compare.

    Args:
        facts: What the run says of itself.
        where: What to call that in a message.

    Raises:
        InvalidInputError: it can't be.
    """
    told = facts.get("others", [])
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise InvalidInputError(f"{where}: 'others' has to be a list of models")
    return tuple(_recorded(each, where) for each in told if "error" not in each)


def _recorded(each: Mapping[str, Any], where: str) -> RecordedOther:
    for name, kinds in _KINDS.items():
        if not isinstance(each.get(name), kinds):
            raise InvalidInputError(
                f"{where}: 'others.{name}' is {shown(repr(each.get(name)))}, which can't be"
            )
    lines = [one.get("line") for one in each["skipped"] if isinstance(one, dict)]
    skipped = frozenset(line for line in lines if isinstance(line, int))
    return RecordedOther(each["view"], each["folder"], each["digest"], each["dtype"], skipped)


def other_rows(
    backend: HFBackend,
    plan: DiffPlan,
    others: Sequence[tuple[OtherModel, RecordedOther]],
    loading: ModelOptions,
) -> Iterator[Row]:
    """Rows of other models, computed again, in the order of the run.

    Args:
        backend: The reference's. Nothing can be asked of it afterwards.
        plan: The texts, and what the models are held against.
        others: The models, each with what the run says of it.
        loading: How the reference was loaded.

    Raises:
        ForwardCacheError: a model or a text can't be compared here.
    """
    from forwardcache.hf.others.models import Reference

    for other, _ in others:
        check_other_vocabulary(backend, other, loading)
    tokens, most = TokenTexts(backend.tokenizer), backend._most_bytes(None)
    reference = Reference.of(
        backend,
        plan.texts,
        plan.completions,
        windows=None,
        view=plan.reference.of(backend),  # type: ignore[arg-type]  # what it gives isn't entered
    )
    try:
        reference.model.let_go()
        for other, recorded in others:
            its_own = replace(loading, dtype=recorded.dtype)
            model = reference.read_by(load_other(backend, other, its_own))
            try:
                model.let_go()
                found = reference.pair(model, most).differences()
            finally:
                model.close()
            yield from _rows(plan, recorded, found, tokens)
    finally:
        reference.model.close()


def _rows(
    plan: DiffPlan, other: RecordedOther, found: Sequence[Any], tokens: TokenTexts
) -> Iterator[Row]:
    for prompt, one in zip(plan.prompts, found, strict=True):
        if prompt.line in other.skipped:
            continue
        if isinstance(one, ForwardCacheError):
            plan.source.failed(prompt, one, "fail")
        words = tokens.of(one.token_ids.tolist())
        yield from rows_of(prompt, plan.reference.name, {other.view: one}, words)

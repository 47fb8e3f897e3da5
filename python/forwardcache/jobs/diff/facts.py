"""Which run a result is of: what ``OUT.meta.json`` and a page say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.others import Others
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.metadata import (
    COMPARE,
    Facts,
    facts_of_input,
    facts_of_run,
    folder_facts,
    loading_facts,
    view_facts,
)
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.session import Session
from forwardcache.jobs.skips import Skipped
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.statistics import Floor


def deciding(
    options: DiffOptions, source: PromptSet, views: Sequence[View], reference: View
) -> Facts:
    """What decides the rows and what is kept beside them: a part goes on only with the same.

    Args:
        options: What was asked for; without a file for rows nothing has to be known.
        source: The texts.
        views: In the order of a text's rows.
        reference: What they are held against.
    """
    if options.out is None:
        return {}
    from forwardcache.jobs.diff.rows import ROW_FORMAT

    return {
        **folder_facts(options.loading),
        **loading_facts(options.loading),
        "row format": ROW_FORMAT,
        "op": COMPARE,
        "views": [view.name for view in views],
        "reference": reference.name,
        "texts": source.sha256,
        "limit": options.limit,
        "skip_first": options.skip_first,
    }


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is said of the loaded model, as it was before it was let go.

    Attributes:
        arithmetic: Dtype, device, kernels and threads.
        template: Digest of what the chat template writes; None without one.
    """

    arithmetic: Facts
    template: str | None

    @classmethod
    def of(cls, session: Session) -> Loaded:
        """What a session's model says.

        Args:
            session: The loaded model.
        """
        return cls(session.arithmetic(), session.template_digest())


def facts_of_diff(
    loaded: Loaded,
    plan: DiffPlan,
    options: DiffOptions,
    *,
    digests: Facts,
    skipped: Sequence[Skipped],
    rows: int,
    floor: Floor | None,
    floor_texts: int,
    seeds: Facts,
    others: Others | None = None,
) -> Facts:
    """What is kept with the rows and shown on a page, as JSON values.

    Args:
        loaded: The loaded model.
        plan: What was compared.
        options: What was asked for.
        digests: Of model and adapter; empty where nobody keeps them.
        skipped: The texts without rows.
        rows: How many rows there are.
        floor: What rounding makes.
        floor_texts: Texts that it was measured on.
        seeds: By what they are for.
        others: Other models; None where none was asked for.
    """
    loading = loading_facts(options.loading)
    own: dict[str, Any] = {
        "limit": options.limit,
        "nulls": options.nulls,
        "detect": options.detect,
        "group_by": options.group_by,
        "skip_first": options.skip_first,
    }
    return {
        **facts_of_run(options.loading, digests=digests, arithmetic=loaded.arithmetic),
        "op": COMPARE,
        "reference": view_facts(plan.reference),
        "views": [view_facts(view) for view in plan.views],
        **_others(others, options),
        "options": {
            **loading,
            **own,
            **({"text of the chat template": loaded.template} if loaded.template else {}),
        },
        **facts_of_input(options.texts, plan.source, skipped, rows=rows),
        "seeds": seeds,
        "floor": None if floor is None else _floor(floor, floor_texts),
    }


def _others(others: Others | None, options: DiffOptions) -> Facts:
    if others is None or not options.others:
        return {}
    known: dict[str, Facts] = {name: one.facts for name, one in others.found.items()}
    failed = {
        one.name: {"view": one.name, "folder": one.folder, "error": others.failed[one.name]}
        for one in options.others
        if one.name in others.failed
    }
    return {"others": [(known | failed)[one.name] for one in options.others]}


def _floor(floor: Floor, texts: int) -> Facts:
    return {
        "texts": texts,
        "mean": floor.mean,
        "p99": floor.p99,
        "same_top": floor.same_top,
        "mean_abs_delta_logprob": floor.mean_abs_delta_logprob,
    }

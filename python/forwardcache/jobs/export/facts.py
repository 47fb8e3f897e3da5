"""Which run an export is of: what decides its rows, and what is kept with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from forwardcache.jobs.metadata import (
    Facts,
    facts_of_input,
    facts_of_run,
    folder_facts,
    loading_facts,
    view_facts,
)

if TYPE_CHECKING:
    from forwardcache.jobs.export.options import ExportOptions
    from forwardcache.jobs.export.plan import ExportPlan
    from forwardcache.jobs.export.totals import ExportTotals
    from forwardcache.jobs.prompts import PromptSet
    from forwardcache.jobs.skips import Skipped
    from forwardcache.jobs.views import View

FORMAT = 1
"""Rises when rows of an export have other fields or meanings."""

_SAID_ELSEWHERE = frozenset({"model", "adapter", "prompts", "view"})
# Of no row's doing, or among the facts under another name.
_FREE = frozenset({"loading", "prompts", "out", "view", "force", "resume", "strict", "json"})


def deciding(options: ExportOptions, source: PromptSet, view: View, *, export: str) -> Facts:
    """What decides the rows, as JSON values: a part goes on only with the same.

    Args:
        options: What was asked for.
        source: The texts or pairs.
        view: What is exported.
        export: ``teacher`` or ``reference``.
    """
    given = {each.name: getattr(options, each.name) for each in fields(options)}
    own = {name: value for name, value in given.items() if name not in _FREE}
    return {
        **folder_facts(options.loading),
        **loading_facts(options.loading),
        "export": export,
        "export format": FORMAT,
        "view": view.name,
        "prompts": source.sha256,
        **own,
    }


def facts_of_export(
    options: ExportOptions,
    plan: ExportPlan,
    totals: ExportTotals,
    *,
    job_facts: Facts,
    skipped: Sequence[Skipped],
    arithmetic: Mapping[str, Any],
) -> Facts:
    """What is kept with the rows, as JSON values.

    Args:
        options: What was asked for.
        plan: What was exported.
        totals: What the rows come to.
        job_facts: What decides them, as ``deciding`` gives it.
        skipped: The texts or pairs without rows.
        arithmetic: Dtype, device, kernels and threads.
    """
    source = plan.job.source
    return {
        **facts_of_run(options.loading, digests=job_facts, arithmetic=arithmetic),
        "op": plan.job.op,
        "views": [view_facts(plan.view)],
        "options": {name: job_facts[name] for name in job_facts if name not in _SAID_ELSEWHERE},
        **facts_of_input(options.prompts, source, skipped, rows=totals.rows),
        "figures": totals.as_json(),
    }

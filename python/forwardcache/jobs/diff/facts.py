"""Which run a result is of: what ``OUT.meta.json`` and a page say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.fingerprint import folder_fingerprint
from forwardcache.jobs.metadata import COMPARE, Facts, facts_of_input, facts_of_run, view_facts
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.session import Session
from forwardcache.jobs.skips import Skipped

if TYPE_CHECKING:
    from forwardcache.statistics import Floor

# Not of the values' doing, or said elsewhere.
_FREE = frozenset(
    {"model", "adapter", "trace", "allow_download", "store", "verify", "cache_bytes", "identity"}
)


def digests_of(loading: ModelOptions) -> Facts:
    """The digests of the contents of model and adapter; None for what is no folder here."""
    folders = {"model": loading.model, "adapter": loading.adapter}
    return {
        name: None if given is None or not Path(given).is_dir() else folder_fingerprint(Path(given))
        for name, given in folders.items()
    }


def facts_of_diff(
    session: Session,
    plan: DiffPlan,
    options: DiffOptions,
    *,
    digests: Facts,
    skipped: Sequence[Skipped],
    rows: int,
    floor: Floor | None,
    floor_texts: int,
    seeds: Facts,
) -> Facts:
    """What is kept with the rows and shown on a page, as JSON values.

    Args:
        session: The loaded model.
        plan: What was compared.
        options: What was asked for.
        digests: Of model and adapter; empty where nobody keeps them.
        skipped: The texts without rows.
        rows: How many rows there are.
        floor: What rounding makes.
        floor_texts: Texts that it was measured on.
        seeds: By what they are for.
    """
    loading = {name: value for name, value in asdict(options.loading).items() if name not in _FREE}
    own: dict[str, Any] = {
        "limit": options.limit,
        "nulls": options.nulls,
        "detect": options.detect,
        "group_by": options.group_by,
        "skip_first": options.skip_first,
    }
    template = session.template_digest()
    return {
        **facts_of_run(options.loading, digests=digests, arithmetic=session.arithmetic()),
        "op": COMPARE,
        "reference": view_facts(plan.reference),
        "views": [view_facts(view) for view in plan.views],
        "options": {
            **loading,
            **own,
            **({"text of the chat template": template} if template else {}),
        },
        **facts_of_input(options.texts, plan.source, skipped, rows=rows),
        "seeds": seeds,
        "floor": None if floor is None else _floor(floor, floor_texts),
    }


def _floor(floor: Floor, texts: int) -> Facts:
    return {
        "texts": texts,
        "mean": floor.mean,
        "p99": floor.p99,
        "same_top": floor.same_top,
        "mean_abs_delta_logprob": floor.mean_abs_delta_logprob,
    }

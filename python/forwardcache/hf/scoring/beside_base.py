"""Base's forwards for values that take two views at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.scoring.call import Call
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.hf.spec import BASE, ViewSpec
from forwardcache.instrumentation import _MISS
from forwardcache.operation import Operation


def run_base_for(
    scorer: Scorer, spec: ViewSpec, op: Operation, of_base: Operation, items: Sequence[Any]
) -> dict[int, ForwardCacheError]:
    """Runs base, past cache and trace, on those items whose value in a view is not there.

    Args:
        scorer: Whose model it is.
        spec: The view.
        op: What the view will be asked.
        of_base: What base is asked.
        items: What both take.

    Returns:
        By position the errors of those that base couldn't be run on.
    """
    if scorer.keeps_states:
        # No value of the view is kept; of base no more is computed than its head on kept states.
        missing, asked = list(range(len(items))), list(items)
        results = scorer.kept.values(BASE, of_base, asked, batched=True)
    else:
        missing = _missing(scorer, scorer.begin(spec, op, list(items)))
        asked = [items[at] for at in missing]
        results = scorer.fresh(BASE, of_base, asked, alone=False) if asked else []
    return {
        at: result
        for at, result in zip(missing, results, strict=True)
        if isinstance(result, ForwardCacheError)
    }


def _missing(scorer: Scorer, call: Call) -> list[int]:
    """Positions of the items whose values are neither cached nor stored; what was, is cached."""
    scorer.found(call)
    cache, names = scorer.instrumentation.cache, (call.op.name, call.spec.view_id)
    look = getattr(cache, "peek", cache.get)
    keys = call.keys()
    return [at for at, key in keys if look((*names, key, call.op.top_k, call.scope)) is _MISS]

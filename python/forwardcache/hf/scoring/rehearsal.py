"""What a run would find and take, without running it: values that are kept, seconds a token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forwardcache.hf.scoring.noise import sample_of

if TYPE_CHECKING:
    from forwardcache.hf.backend import HFBackend
    from forwardcache.hf.scoring_methods import Operations


def distinct_missing(view: Operations, op: str, items: Sequence[Any], *, top_k: int) -> list[int]:
    """Positions of the items that a view would be run for: neither kept nor equal to one before.

    Args:
        view: A view that has been entered.
        op: The name of an operation.
        items: Its arguments, as ``HFBackend.rendered`` gives them.
        top_k: Tokens of a distribution.
    """
    scorer = view._in_force()
    asked = scorer.operation(op, top_k=top_k)
    if scorer.keeps_states:
        return scorer.kept.missing(view.spec, asked, list(items))
    call = scorer.begin(view.spec, asked, list(items))
    kept = scorer.found(call)
    missing = {key: position for position, key in reversed(call.keys()) if position not in kept}
    return sorted(missing.values())


def seconds_a_token(
    view: Operations, op: str, items: Sequence[Any], *, top_k: int, most_tokens: int
) -> tuple[float, int] | None:
    """What a token took in a forward of some items, past cache, store and trace.

    Args:
        view: A view that has been entered.
        op: As in ``distinct_missing``.
        items: At least one; a sample of them is run, twice, and the second time counts.
        top_k: Tokens of a distribution.
        most_tokens: About how many tokens are run.

    Returns:
        Seconds a token, and the tokens that were run; None where none could be.
    """
    scorer = view._in_force()
    asked = scorer.operation(op, top_k=top_k)
    chosen: list[Any] = []
    tokens = 0
    for item, length in zip(items, scorer.token_lengths(asked.form, items), strict=True):
        if isinstance(length, int) and length and (not chosen or tokens + length <= most_tokens):
            chosen.append(item)
            tokens += length
    if not chosen:
        return None
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        values = scorer.fresh(view.spec, asked, chosen, alone=False)
        took = time.perf_counter() - began
    return None if any(isinstance(one, Exception) for one in values) else (took / tokens, tokens)


def loads_of_adapters(backend: HFBackend) -> tuple[int | None, float]:
    """Of how many adapters one is loaded only once, and what loading one took so far, in seconds.

    Args:
        backend: With or without adapters; None is for any number of them.
    """
    adapters = backend._scorer.adapters
    return (None, 0.0) if adapters is None else (adapters.most_in_memory, adapters.seconds_a_load)


def typical(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` items, evenly spaced."""
    return sample_of(items, most)

"""The most likely tokens at positions of texts that are tokens already; nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.kernels import top_dists
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.scoring.windows import windows_of
from forwardcache.operation import Operation, Runner, Task
from forwardcache.scoring import TokenDist

if TYPE_CHECKING:
    from forwardcache.hf.backend import HFBackend
    from forwardcache.hf.view import HFView


class _TopTokens(Operation):
    """The most likely tokens after given ones. An item is ``(context, (token,))``, ids both."""

    name = "top_tokens"
    form = "tokens"
    last_only = True

    def __init__(self, k: int) -> None:
        self.k = k

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        return list(top_dists(runner.last_logits([task.encoded.fed for task in tasks]), self.k))


def top_tokens(
    backend: HFBackend,
    view: HFView | str,
    at: Sequence[tuple[ArrayLike, int]],
    *,
    k: int = 5,
) -> list[TokenDist | ForwardCacheError]:
    """The ``k`` most likely tokens of a view at positions, one short forward each, in batches.

    Nothing is cached, stored or traced. Where a text is longer than the model's context, what is
    read before a position is what ``compare`` reads before it in its windows.

    Args:
        backend: The model's.
        view: One of its views, as in ``HFBackend.compare``.
        at: For each position the ids of its text and how many of them stand before it, 1 or more.
        k: Tokens wanted; more than the vocabulary means all.

    Returns:
        A distribution a position, or its error: a token that the model can't read, or memory that
        is too small.

    Raises:
        ForwardCacheError: there is no such view, or the model can't give it.
    """
    [spec] = backend._specs_of([view])
    scorer = backend._scorer
    most = max_positions(scorer.causal_lm)
    texts = [(tuple(np.asarray(ids).tolist()), place) for ids, place in at]
    items = [(_read(ids, place, most), ids[place : place + 1]) for ids, place in texts]
    return list(scorer.fresh(spec, _TopTokens(k), items, alone=False)) if items else []


def _read(ids: tuple[int, ...], place: int, most: int | None) -> tuple[int, ...]:
    """The tokens that are read before the token at ``place``, in the window that scores it."""
    done = 0
    for window in windows_of(Encoded(ids, 1), most):
        if place <= done + len(window.scored):
            return window.token_ids[: window.first_scored + place - 1 - done]
        done += len(window.scored)
    raise ValueError(f"{len(ids)} tokens have no place {place}")

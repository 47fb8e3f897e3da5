"""The short way of a call whose values are all in the cache: no tasks, no tokens, no store.

The call's look at the model is over, so its keys are known. Where the cache has them all, they go
through the instrumentation at once: the hits, events and figures are those of the long way. Else
nothing has been counted or told, and the call goes on as if it had not been tried.

Only the package's own cache can be asked without being told so, and only of keys that are plain
texts is it sure that whatever equals one has tokens. Everything else takes the long way, as does a
call with something to do at a hit: progress to report, hits to compute again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from forwardcache.errors import ForwardCacheError, ModelMemoryError
from forwardcache.hf.scoring.call import Call, NotFiniteError
from forwardcache.hf.text.chat import key_of
from forwardcache.hf.text.encode import Encoder
from forwardcache.instrumentation import _MISS, ForwardCache
from forwardcache.operation import Operation

if TYPE_CHECKING:
    from forwardcache.hf.scoring.scorer import Scorer
    from forwardcache.hf.scoring.terms import Terms

_STR = frozenset([str])
_OF_ONE_TEXT = frozenset(["prompt", "text", "windows"])


def found(
    scorer: Scorer, terms: Terms, op: Operation, items: Sequence[Any], *, batched: bool
) -> list[Any] | None:
    """The values of a call, if all of them are in the cache; else None.

    Args:
        scorer: Whose call it is.
        terms: Those of the call.
        op: What is asked.
        items: Of what, as the chat template shows them.
        batched: Whether they are looked up together.

    Raises:
        ModelChangedError: one was evicted meanwhile, and the model is another one by now.
    """
    instrumentation = scorer.instrumentation
    kept = getattr(instrumentation, "cache", None)
    if type(kept) is not ForwardCache or scorer.progress is not None or scorer.selfcheck.share:
        return None
    keys = _keys(op, items)
    if not keys:
        return None
    name, view_id, top_k, scope = op.name, terms.view_id, op.top_k, terms.scope
    if top_k and scorer.slices.larger(top_k):
        _fill(scorer, kept, keys, names=(name, view_id), top_k=top_k, scope=scope)
    peek = kept.peek
    for key in keys:
        if peek((name, view_id, key, top_k, scope)) is _MISS:
            return None
    evicted = _Evicted(scorer, terms, op, items)
    try:
        if batched:
            lookup = instrumentation.cached_batch
            return list(lookup(name, view_id, keys, top_k, evicted.values, scope=scope))
        single = instrumentation.cached
        return [single(name, view_id, keys[0], top_k, evicted.value, scope=scope)]
    except (NotFiniteError, ModelMemoryError):
        return evicted.rest(batched=batched)


def _fill(
    scorer: Scorer,
    kept: ForwardCache,
    keys: Sequence[Any],
    *,
    names: tuple[str, str],
    top_k: int,
    scope: bytes,
) -> None:
    scorer.slices.fill(kept, keys, top_k, lambda *key: (*names, *key, scope))


class _Evicted:
    """Values that were in the cache a moment ago, computed as in the long way."""

    def __init__(self, scorer: Scorer, terms: Terms, op: Operation, items: Sequence[Any]) -> None:
        self._scorer = scorer
        self._asked = terms, op, items

    def values(self, indices: Sequence[int]) -> list[Any]:
        """Those of the items at ``indices``."""
        call = self._call
        return self._scorer.compute(call, [call.tasks[index] for index in indices])

    def value(self) -> Any:
        """That of the only item."""
        return self.values([0])[0]

    def rest(self, *, batched: bool) -> list[Any]:
        """The values of all items, after a computation that raised; what was counted stays so."""
        scorer, call = self._scorer, self._call
        return call.results(scorer.cached(call, batched, scorer.counted_hits(call)))

    @cached_property
    def _call(self) -> Call:
        """A call of all items; what had a value has tokens, which may wait."""
        terms, op, items = self._asked
        call = self._scorer.call(terms, op, list(items))
        with self._scorer.lock:
            call.encode(range(len(items)))
        return call


def _keys(op: Operation, items: Sequence[Any]) -> Sequence[Any] | None:
    """The items as the cache's keys; None if one is no plain text of the right kind."""
    kind: Any = type(op)
    if _is_its_own_key(kind):
        if op.form in _OF_ONE_TEXT and _STR.issuperset(map(type, items)):
            return items
        if op.form == "pair" and all(map(_is_pair, items)):
            return items
    keys = [_key(op, item) for item in items]
    return None if None in keys else keys


def _is_pair(item: Any) -> bool:
    return type(item) is tuple and len(item) == 2 and _STR.issuperset(map(type, item))


def _key(op: Operation, item: Any) -> Any:
    if isinstance(item, ForwardCacheError):
        return None
    try:
        is_right = Encoder.takes(op.form, op.text(item))
    except ForwardCacheError:
        return None
    key = key_of(op.key(item)) if is_right else None
    is_plain = type(key) is str or (type(key) is tuple and _STR.issuperset(map(type, key)))
    return key if is_plain else None


@cache
def _is_its_own_key(kind: Any) -> bool:
    """Whether an operation takes an item as it is, for its text and its key."""
    return kind.text is Operation.text and kind.key is Operation.key

"""The most likely tokens at each position of given tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.operation import Column, Operation, Runner, Task, is_close
from forwardcache.operations.next_token_dist import checked_top_k

if TYPE_CHECKING:
    from forwardcache.scoring import TopKByPosition as Value


class TopKAtEachPosition(Operation):
    """What the model expects at the place of each token of a continuation.

    An item is ``(context, continuation)``, ids both. Its value is a ``TopKByPosition`` with a
    position for each token of the continuation.

    Raises:
        ViewParameterError: ``top_k`` is not an integer of at least 1.
    """

    name = "top_k_at_each_position"
    options = ("top_k",)
    form = "tokens"
    needs_only_prompts = False
    kind = "top_k"
    stored: ClassVar[Mapping[str, Column]] = {
        "token_ids": "int64[]",
        "logprobs": "float32[]",
        "tail_logprobs": "float32[]",
        "k": "int64[]",
    }

    def __init__(self, top_k: int = 64) -> None:
        self.top_k = checked_top_k(top_k)

    def key(self, item: Any) -> Any:
        return tuple(",".join(map(str, ids)) for ids in item)

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        from forwardcache.hf.batch.kernels import top_k_kernel

        kernel = top_k_kernel(self.top_k)
        found = runner.scored_logprobs([task.encoded for task in tasks], kernel)
        return [_value(each) for each in found]

    def holds(self, type_: object) -> bool:
        from forwardcache.scoring import TopKByPosition as Value

        return type_ is Value

    def is_finite(self, value: Value) -> bool:
        return value.is_finite

    def is_same(self, kept: Value, fresh: Value, tolerance: float) -> bool:
        """Tokens by their ids, since those that are nearly equal may change places."""
        if (kept.k, len(kept)) != (fresh.k, len(fresh)):
            return False
        pairs = zip(kept.positions(), fresh.positions(), strict=True)
        return all(_is_same(ours, theirs, tolerance) for ours, theirs in pairs)

    def pack(self, value: Value) -> dict[str, Any]:
        return {
            "token_ids": value.token_ids,
            "logprobs": value.logprobs,
            "tail_logprobs": value.tail_logprobs,
            "k": (value.k,),
        }

    def unpack(self, arrays: Mapping[str, Any]) -> Value:
        from forwardcache.scoring import TopKByPosition as Value

        [k] = arrays["k"].tolist()
        return Value(arrays["token_ids"], arrays["logprobs"], arrays["tail_logprobs"], k)


OPERATION = TopKAtEachPosition


def _value(packed: Any) -> Value:
    from forwardcache.hf.batch.kernels import top_k_of
    from forwardcache.scoring import TopKByPosition as Value

    ids, logprobs, tails = top_k_of(packed)
    return Value(ids.ravel(), logprobs.ravel(), tails, ids.shape[-1])


def _is_same(kept: Any, fresh: Any, tolerance: float) -> bool:
    """Whether the tokens of one position are the same; those at the edge may be others."""
    ours, theirs = (dict(zip(*map(list, one), strict=True)) for one in (kept, fresh))
    last = min(theirs.values())
    return all(
        is_close(float(ours.get(token, last)), float(theirs.get(token, last)), tolerance)
        for token in ours.keys() | theirs.keys()
    )

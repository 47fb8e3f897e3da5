"""The log-probability of given tokens after given tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.operation import Column, Operation, Runner, Task, is_close

if TYPE_CHECKING:
    from forwardcache.scoring import ContinuationLogprob as Value


class ContinuationLogprob(Operation):
    """Given tokens after given tokens. An item is ``(context, continuation)``, ids both."""

    name = "continuation_logprob"
    form = "tokens"
    needs_only_prompts = False
    kind = "continuation"
    stored: ClassVar[Mapping[str, Column]] = {
        "logprob": "float64[]",
        "num_tokens": "int64[]",
        "is_greedy": "int64[]",
    }

    def key(self, item: Any) -> Any:
        return tuple(",".join(map(str, ids)) for ids in item)

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        from forwardcache.hf.batch.kernels import logprobs_and_greedy
        from forwardcache.scoring import ContinuationLogprob as Value

        scored = runner.scored_logprobs([task.encoded for task in tasks], logprobs_and_greedy)
        return [
            Value(float(each[:, 0].double().sum()), len(each), bool(each[:, 1].all()))
            for each in scored
        ]

    def holds(self, type_: object) -> bool:
        from forwardcache.scoring import ContinuationLogprob as Value

        return type_ is Value

    def is_finite(self, value: Value) -> bool:
        return value.is_finite

    def is_same(self, kept: Value, fresh: Value, tolerance: float) -> bool:
        # Greedy or not may turn over between two tokens that are nearly equal.
        tokens = fresh.num_tokens
        return kept.num_tokens == tokens and is_close(
            kept.logprob, fresh.logprob, tolerance * max(tokens, 1)
        )

    def pack(self, value: Value) -> dict[str, Any]:
        return {
            "logprob": (value.logprob,),
            "num_tokens": (value.num_tokens,),
            "is_greedy": (value.is_greedy,),
        }

    def unpack(self, arrays: Mapping[str, Any]) -> Value:
        from forwardcache.scoring import ContinuationLogprob as Value

        [logprob], [tokens], [greedy] = (arrays[name].tolist() for name in self.stored)
        return Value(logprob, tokens, bool(greedy))

    def total(self, value: Value) -> float:
        return value.logprob


OPERATION = ContinuationLogprob

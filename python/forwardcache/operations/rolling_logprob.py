"""The log-probability of each token of a text given those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.operation import AskedPrompt, Column, Operation, Runner, Task, is_close

if TYPE_CHECKING:
    from forwardcache.hf.batch.row import Encoded
    from forwardcache.hf.text.encode import Form
    from forwardcache.scoring import RollingLogprob as Value


class RollingLogprob(Operation):
    """Each token of a text no longer than the context; its value is a ``RollingLogprob``."""

    name = "rolling_logprob"
    options = ("windows",)
    form: Form = "text"
    takes_template = False
    kind = "rolling"
    stored: ClassVar[Mapping[str, Column]] = {
        "token_ids": "int64[]",
        "logprobs": "float32[]",
        "num_tokens": "int64[]",
        "total_logprob": "float64[]",
    }
    columns: ClassVar[Mapping[str, Column]] = {
        "token_ids": "int64[]",
        "logprobs": "float32[]",
        "num_tokens": "int64",
        "total_logprob": "float64",
    }

    @classmethod
    def of(cls, **options: Any) -> Operation:
        return RollingWindows() if options.get("windows") else RollingLogprob()

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        scored = runner.scored_logprobs([task.encoded for task in tasks])
        pairs = zip(tasks, scored, strict=True)
        return [_value(task.encoded, logprobs.numpy()) for task, logprobs in pairs]

    def without_run(self, encoded: Encoded) -> Value | None:
        return None if encoded.scored else _value(encoded, [])

    def holds(self, type_: object) -> bool:
        from forwardcache.scoring import RollingLogprob as Value

        return type_ is Value

    def is_finite(self, value: Value) -> bool:
        return value.is_finite

    def is_same(self, kept: Value, fresh: Value, tolerance: float) -> bool:
        if kept.token_ids.tolist() != fresh.token_ids.tolist():
            return False
        pairs = zip(kept.logprobs.tolist(), fresh.logprobs.tolist(), strict=True)
        return all(is_close(one, other, tolerance) for one, other in pairs)

    def pack(self, value: Value) -> dict[str, Any]:
        return {
            "token_ids": value.token_ids,
            "logprobs": value.logprobs,
            "num_tokens": (value.num_tokens,),
            "total_logprob": (value.total_logprob,),
        }

    def unpack(self, arrays: Mapping[str, Any]) -> Value:
        from forwardcache.scoring import RollingLogprob as Value

        [num_tokens] = arrays["num_tokens"].tolist()
        [total] = arrays["total_logprob"].tolist()
        return Value(arrays["token_ids"], arrays["logprobs"], num_tokens, total)

    def lacking(self, prompt: AskedPrompt) -> str | None:
        if prompt.messages is None:
            return None
        return "rolling_logprob scores a text, and this is a list of messages"

    def item(self, prompt: AskedPrompt) -> str:
        return prompt.text

    def ask(self, view: Any, items: Sequence[Any]) -> list[Any]:
        found: list[Any] = view.rolling_logprob_batch(items, on_error="return")
        return found

    def row(self, value: Value, *, top_k: int) -> dict[str, Any]:
        return {
            "num_tokens": value.num_tokens,
            "token_ids": value.token_ids,
            "logprobs": value.logprobs,
            "total_logprob": value.total_logprob,
        }

    def total(self, value: Value) -> float:
        return float(value.total_logprob)


class RollingWindows(RollingLogprob):
    """Each token of a text of any length, given those before it in its window."""

    name = "rolling_logprob_windows"
    form: Form = "windows"
    in_windows = True

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        return [each.numpy() for each in runner.scored_logprobs([task.encoded for task in tasks])]

    def joined(self, encoded: Encoded, windows: Sequence[Any]) -> Value:
        import numpy as np

        return _value(encoded, np.concatenate(windows))


OPERATION = RollingLogprob


def _value(encoded: Encoded, logprobs: Any) -> Value:
    """The value of a text whose scored tokens have these log-probabilities."""
    import numpy as np

    from forwardcache.scoring import RollingLogprob as Value

    total = float(np.sum(logprobs, dtype=np.float64))
    ids = np.array(encoded.token_ids, dtype=np.int64)
    return Value(ids, logprobs, len(encoded.token_ids), total)

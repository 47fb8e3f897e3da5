"""The log-probability of a completion after a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.operation import AskedPrompt, Column, Operation, Runner, Task

if TYPE_CHECKING:
    from forwardcache.scoring import CompletionLogprob


class LogprobOf(Operation):
    """A completion after a prompt; its value is a float, nats. An item is a pair of texts."""

    name = "logprob_of"
    form = "pair"
    columns: ClassVar[Mapping[str, Column]] = {
        "num_tokens": "int64",
        "logprob": "float64",
        "spans_boundary": "bool",
    }

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        scored = runner.scored_logprobs([task.encoded for task in tasks])
        return [float(logprobs.double().sum()) for logprobs in scored]

    def lacking(self, prompt: AskedPrompt) -> str | None:
        if prompt.completion is not None:
            return None
        return "no completion, which logprob_of scores (JSON lines only)"

    def item(self, prompt: AskedPrompt) -> tuple[Any, str | None]:
        return prompt.asked, prompt.completion

    def ask(self, view: Any, items: Sequence[Any]) -> list[Any]:
        """With the number of tokens, which a row has too."""
        found: list[Any] = view.completion_logprob_batch(items, on_error="return")
        return found

    def row(self, value: CompletionLogprob, *, top_k: int) -> dict[str, Any]:
        return {
            "logprob": value.logprob,
            "num_tokens": value.num_tokens,
            "spans_boundary": value.spans_boundary,
        }

    def total(self, value: float | CompletionLogprob) -> float:
        """Of a value, or of what ``ask`` gave."""
        return value if isinstance(value, float) else float(value.logprob)


OPERATION = LogprobOf

"""The entropy of the next token: an operation as a contributor would add it, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from forwardcache.operation import Column, Figure, Operation, Runner, Task


class NextTokenEntropy(Operation):
    """The entropy of the token after a prompt; its value is a float, nats."""

    name = "next_token_entropy"
    form = "prompt"
    last_only = True
    # Kind, `pack` and `unpack` show how a value of another type is stored; a float has defaults.
    kind = "entropy"
    stored: ClassVar[Mapping[str, Column]] = {"nats": "float64[]"}
    columns: ClassVar[Mapping[str, Column]] = {"entropy_nats": "float64", "is_sure": "bool"}
    figure = Figure(
        ("entropy_change_nats",),
        {"entropy_change_nats": "float64"},
        "change of entropy",
        is_signed=True,
    )

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        logits = runner.last_logits([task.encoded.fed for task in tasks])
        logprobs = logits.double().log_softmax(-1)
        entropies: list[Any] = (-(logprobs.exp() * logprobs).sum(-1)).tolist()
        return entropies

    def pack(self, value: float) -> dict[str, Any]:
        return {"nats": (value,)}

    def unpack(self, arrays: Mapping[str, Any]) -> Any:
        [value] = arrays["nats"].tolist()
        return value

    def row(self, value: float, *, top_k: int) -> dict[str, Any]:
        return {"entropy_nats": value, "is_sure": value < 0.1}


OPERATION = NextTokenEntropy

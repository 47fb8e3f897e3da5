"""The final hidden state of each token of a text, from which its head gives every other value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.errors import UnsupportedModelError
from forwardcache.operation import Column, Operation, Task

if TYPE_CHECKING:
    from forwardcache.scoring import HiddenStates as Value

# Of how a value lies in its arrays: another number is another value.
_LAYOUT = 1


class HiddenStates(Operation):
    """What the body gives the head for a plain text; its value is a ``HiddenStates``."""

    name = "hidden_states"
    form = "text"
    every_position = True
    needs_only_prompts = False
    takes_template = False
    kind = "states"
    stored: ClassVar[Mapping[str, Column]] = {
        "token_ids": "int64[]",
        "states": "uint8[]",
        "dtype": "uint8[]",
        "layout": "int64[]",
    }
    columns: ClassVar[Mapping[str, Column]] = {}

    def run(self, runner: Any, tasks: Sequence[Task]) -> list[Any]:
        from forwardcache.hf.batch.states import values_of

        rows = [task.encoded.token_ids for task in tasks]
        found = runner.final_states(rows)
        if found is None:
            raise UnsupportedModelError(
                f"the hidden states of {runner.name} can't be had apart from its logits"
            )
        return list(values_of(rows, found.rows))

    def holds(self, type_: object) -> bool:
        from forwardcache.scoring import HiddenStates as Value

        return type_ is Value

    def is_finite(self, value: Value) -> bool:
        return value.is_finite

    def is_same(self, kept: Value, fresh: Value, tolerance: float) -> bool:
        """Whether the states of each token differ by no more than that, in their own length."""
        import numpy as np

        is_alike = kept.dtype == fresh.dtype and kept.states.shape == fresh.states.shape
        if not is_alike or kept.token_ids.tolist() != fresh.token_ids.tolist():
            return False
        one, other = (each.float32().astype(np.float64) for each in (kept, fresh))
        apart = np.linalg.norm(one - other, axis=-1)
        return bool((apart <= tolerance * np.linalg.norm(other, axis=-1)).all())

    def pack(self, value: Value) -> dict[str, Any]:
        import numpy as np

        return {
            "token_ids": value.token_ids,
            "states": value.states.reshape(-1).view(np.uint8),
            "dtype": np.frombuffer(value.dtype.encode(), np.uint8),
            "layout": (_LAYOUT, value.states.shape[1]),
        }

    def unpack(self, arrays: Mapping[str, Any]) -> Value:
        from forwardcache._hidden_states import ELEMENTS
        from forwardcache.scoring import HiddenStates as Value

        layout, width = arrays["layout"].tolist()
        if layout != _LAYOUT:
            raise ValueError(f"states of layout {layout}, not {_LAYOUT}")
        dtype, ids = arrays["dtype"].tobytes().decode("ascii"), arrays["token_ids"]
        states = arrays["states"].view(ELEMENTS[dtype])
        return Value(ids, states.reshape(len(ids), width), dtype)

    def total(self, value: Value) -> float:
        raise NotImplementedError("hidden states have no log-probability")


OPERATION = HiddenStates

"""How far a view's distribution of the next token is from base's, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.operation import Column, Operation, Runner, Task

if TYPE_CHECKING:
    from forwardcache.hf.batch.row import Encoded

Tokens = tuple[int, ...]


class BaseLogits:
    """Base's logits after some prompts, [vocabulary] each, by the tokens that the model read."""

    def __init__(self) -> None:
        self._rows: dict[Tokens, Any] = {}

    def __contains__(self, tokens: Tokens) -> bool:
        return tokens in self._rows

    def __getitem__(self, tokens: Tokens) -> Any:
        return self._rows[tokens]

    def keep(self, rows: Sequence[Tokens], logits: Any) -> None:
        """Keeps the logits [rows, vocabulary] after some rows of tokens.

        Args:
            rows: What the model read.
            logits: After the last token of each.
        """
        # A view of the logits of all positions would keep all of these.
        is_part = logits.untyped_storage().nbytes() > logits.nbytes
        self._rows.update(zip(rows, logits.clone() if is_part else logits, strict=True))

    def clear(self) -> None:
        """Forgets all of them."""
        self._rows.clear()


class NextTokenKl(Operation):
    """KL(base ‖ view) after a prompt, nats: its value in a view, whose key holds base too.

    It takes the logits of both. Base's are those in hand; so may be the divergence itself, where
    the view's logits were there for another value. Nothing is run for it then.

    Args:
        base: Base's logits, of every prompt that has to be run.
        found: Divergences that are known, by the tokens that the model read.
    """

    name = "next_token_kl"
    form = "prompt"
    last_only = True
    needs_only_prompts = False
    columns: ClassVar[Mapping[str, Column]] = {}

    def __init__(
        self, base: BaseLogits | None = None, found: Mapping[Tokens, float] | None = None
    ) -> None:
        self._base = BaseLogits() if base is None else base
        self._found = found or {}

    def without_run(self, encoded: Encoded) -> float | None:
        return self._found.get(encoded.fed)

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        rows = [task.encoded.fed for task in tasks]
        return divergences_of(self._base, rows, runner.last_logits(rows))


class KeptBaseLogits(Operation):
    """Base's logits after a prompt, for ``NextTokenKl``; its values are kept nowhere.

    Args:
        base: Where they go; what is there isn't run again.
    """

    name = "next_token_kl"
    form = "prompt"
    last_only = True
    columns: ClassVar[Mapping[str, Column]] = {}

    def __init__(self, base: BaseLogits) -> None:
        self._base = base

    def without_run(self, encoded: Encoded) -> bool | None:
        return True if encoded.fed in self._base else None

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        rows = [task.encoded.fed for task in tasks]
        self._base.keep(rows, runner.last_logits(rows))
        return [True for _ in tasks]


OPERATION = NextTokenKl


def divergences_of(base: BaseLogits, rows: Sequence[Tokens], logits: Any) -> list[float]:
    """KL(base ‖ view) after each row of tokens, nats.

    Args:
        base: Base's logits, those of ``rows`` among them.
        rows: What the model read.
        logits: The view's [rows, vocabulary].
    """
    import torch

    from forwardcache.hf.batch.differences import divergences

    if not rows:
        return []
    reference = torch.stack([base[tokens] for tokens in rows])
    found: list[float] = divergences(reference, logits).tolist()
    return found

"""Runs a model once over texts and keeps the final hidden states of every position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from forwardcache.errors import ForwardCacheError, UnsupportedModelError
from forwardcache.hf.backend import HFBackend
from forwardcache.hf.batch.plan import distinct, in_slabs
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.others.spool import Spool
from forwardcache.hf.others.texts import Rows, Texts
from forwardcache.hf.scoring.final_states import FinalStates, HeadNotAloneError
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.hf.scoring.task import Task
from forwardcache.hf.spec import ViewSpec

_SLAB_BYTES = 16 * 2**20


@dataclass(slots=True)
class States:
    """The final hidden states of texts in one view of a model.

    Attributes:
        spec: The view.
        rows: The tokens of each text, or why it has no states.
        ways: How rows were run.
        kind: The type of the body's output; None where nothing was run.
        spool: The states.
        numbers: For each text those in ``spool`` of its windows.
    """

    spec: ViewSpec
    rows: Rows
    ways: Ways
    kind: type[Any] | None = None
    spool: Spool = field(default_factory=Spool)
    numbers: list[list[int]] = field(default_factory=list)

    def of(self, text: int) -> Tensor:
        """States [positions, width] of a text's positions that are compared.

        Args:
            text: Its position among the texts; one that has states.
        """
        parts = [self.spool.get(number) for number in self.numbers[text]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def token_ids(self, text: int) -> tuple[int, ...]:
        """The tokens of a text.

        Args:
            text: As in ``of``.
        """
        row = self.rows[text]
        assert isinstance(row, Encoded)
        return row.token_ids

    def bytes_of(self, text: int) -> int:
        """Bytes of a text's states.

        Args:
            text: As in ``of``.
        """
        return sum(self.spool.size_of(number) for number in self.numbers[text])

    def some(self) -> Tensor | None:
        """A few states of any text; None where none has any."""
        return self.spool.get(0) if len(self.spool) else None


def states_of(backend: HFBackend, spec: ViewSpec | None, texts: Texts, rows: Rows) -> States:
    """The states of texts in a view; a text that memory is too small for has its error.

    Args:
        backend: The model's.
        spec: The view; None for the model as it stands.
        texts: The texts.
        rows: Their tokens, as this model may read them.

    Raises:
        UnsupportedModelError: the view can't be exact or isn't causal, the model's head can't be
            run alone, or the model changed meanwhile.
        OSError: the disk is full or fails.
    """
    scorer = backend._scorer
    with scorer.lock:
        runs = scorer.runs_as(spec)
        state = scorer.state(runs)
        ways = replace(scorer.admitted(runs), prefixes=False)
    if not ways.causal:
        raise UnsupportedModelError(
            f"compare needs a causal model, and in {scorer.runner.name} a token's logits depend on "
            "what follows it"
        )
    found = States(runs, list(rows), ways)
    op = FinalStates()
    # Equal texts run once; an error is like no other.
    firsts, kind_of = distinct(
        each.token_ids if isinstance(each, Encoded) else each for each in rows
    )
    done: dict[int, list[int] | ForwardCacheError] = {}
    for slab in _slabs(backend, [at for at in firsts if _has_states(rows[at])], texts.cut):
        with scorer.lock:
            scorer.runner.ways = ways
            with scorer.entered(runs), torch.inference_mode():
                windows = [window for at in slab for window in texts.cut[at]]
                tasks = [Task(None, Encoded(each.token_ids, 1), None) for each in windows]
                values = _values(scorer, op, tasks)
            if scorer.state(runs) is not state:
                raise UnsupportedModelError("the model changed while it was compared")
        _keep(found, slab, texts.cut, iter(values), done)
    found.kind = op.output
    for at, kind in enumerate(kind_of):
        numbers = done.get(firsts[kind], [])
        if isinstance(numbers, ForwardCacheError):
            found.rows[at] = numbers
        found.numbers.append([] if isinstance(numbers, ForwardCacheError) else numbers)
    return found


def _values(
    scorer: Scorer, op: FinalStates, tasks: Sequence[Task]
) -> list[Tensor | ForwardCacheError]:
    """The states of each task, or its error."""
    try:
        return scorer.runs.values(op, tasks, scorer.progress or _nobody)
    except HeadNotAloneError:
        raise UnsupportedModelError(
            f"{scorer.runner.name} can't be held against another model: its head can't be run "
            "without the rest of it"
        ) from None


def _has_states(row: Encoded | ForwardCacheError) -> bool:
    return isinstance(row, Encoded) and len(row.token_ids) > 1


def _keep(
    found: States,
    slab: Sequence[int],
    cut: Sequence[Sequence[Encoded]],
    values: Iterator[Tensor | ForwardCacheError],
    done: dict[int, list[int] | ForwardCacheError],
) -> None:
    """Puts the states of a slab's texts away."""
    for at in slab:
        of_text = [(window, next(values)) for window in cut[at]]
        errors = [each for _, each in of_text if isinstance(each, ForwardCacheError)]
        done[at] = (
            errors[0]
            if errors
            else [
                found.spool.add(each[window.first_scored - 1 :])
                for window, each in of_text
                if isinstance(each, Tensor)
            ]
        )


def _slabs(
    backend: HFBackend, texts: Sequence[int], cut: Sequence[Sequence[Encoded]]
) -> Iterator[list[int]]:
    """Texts in groups whose states fit into a little memory or one batch, or which are one."""
    scorer = backend._scorer
    width = getattr(scorer.causal_lm.config.get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        # A family's own name for it, or one number a layer; an embedding is hardly wider.
        width = scorer.causal_lm.get_input_embeddings().weight.shape[-1]
    token = width * scorer.runner.dtype.itemsize
    most = max(_SLAB_BYTES // token, scorer.runs.budget(FinalStates()))
    return in_slabs(texts, lambda at: sum(len(window.fed) for window in cut[at]), most)


def _nobody(_: int) -> None:
    """Whom progress is told where nobody listens."""

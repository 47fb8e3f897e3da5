"""Runs the tasks of one call in batches, within a token budget that shrinks when memory runs out.

A batch that doesn't fit is not lost: the budget is halved, everything that is not done yet is
planned again, and the smaller budget stays for that operation. Only a row that doesn't fit alone
fails, with an error in its place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forwardcache.errors import ModelMemoryError
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.prefix_group import PrefixGroup, plan_packs
from forwardcache.hf.scoring.provenance import RanBatch
from forwardcache.hf.scoring.task import Task
from forwardcache.operation import Operation

_log = logging.getLogger(__name__)

# What a pass costs beside its tokens, and how much is packed behind a prefix, in parts of the token
# budget: both grow with what the device does at once. A CPU has less to do before it begins.
_PASS_COST = {"cpu": 32, "cuda": 16}
_PACK = {"cpu": 8, "cuda": 4}


@dataclass(frozen=True)
class Refused:
    """A batch that did not fit into memory.

    Attributes:
        task: The position of its first task.
        seconds: How long it took to find out.
        error: The type of the error.
    """

    task: int
    seconds: float
    error: str


Report = Callable[[int], None]
"""Told the number of tokens that are newly done."""


class BatchedRuns:
    """Runs operations on a model. The caller holds the model's lock and has switched the view.

    Args:
        runner: Runs the model's forward.

    Attributes:
        out_of_memory: Batches so far that did not fit into memory.
        ran: The forwards of the last call, by the positions of its tasks.
        refused: The batches of the last call that did not fit into memory.
    """

    def __init__(self, runner: ForwardRunner) -> None:
        self._runner = runner
        self._budgets: dict[str, int] = {}
        self.out_of_memory = 0
        self.ran: list[RanBatch] = []
        self.refused: list[Refused] = []

    def values(self, op: Operation, tasks: Sequence[Task], report: Report) -> list[Any]:
        """The value of each task, or the error of one that does not fit into memory alone."""
        found: dict[int, Any] = {}
        self.ran, self.refused = [], []
        families = self._runner.prefix_groups(
            [task.encoded for task in tasks],
            forward_cost=self.budget(op) // _PASS_COST[self._runner.device],
            last_only=op.last_only,
        )
        for family in families:
            self._run_family(op, tasks, family, found, report)
        while len(found) < len(tasks):
            self._run_rest(op, tasks, found, report)
        return [found[place] for place in range(len(tasks))]

    def budget(self, op: Operation) -> int:
        """Most positions in a batch of ``op`` at present."""
        return self._budgets.get(op.name, self._runner.limits.token_budget)

    def _run_family(
        self,
        op: Operation,
        tasks: Sequence[Task],
        family: PrefixGroup,
        found: dict[int, Any],
        report: Report,
    ) -> None:
        """Rows of one prefix; those that don't fit into memory are left to the ordinary way."""
        prefix = tasks[family.items[0]].encoded.fed[: family.shared]
        packs = plan_packs(
            family,
            [len(task.encoded.fed) - family.shared for task in tasks],
            [max(1, len(task.encoded.scored)) for task in tasks],
            most_tokens=self.budget(op) // _PACK[self._runner.device],
            most_needed=self._runner.most_logit_rows,
        )
        shared = self._tried(self._runner.behind, prefix, first=family.items[0])
        for pack in packs if shared is not None else []:
            values = self._tried(op.run, shared, [tasks[at] for at in pack], first=pack[0])
            if values is None:
                return
            rests = sum(len(tasks[at].encoded.fed) - family.shared for at in pack)
            self.ran.append(RanBatch(tuple(pack), rests, rests, family.shared))
            found.update(zip(pack, values, strict=True))
            report(sum(len(tasks[at].encoded.fed) for at in pack))

    def _run_rest(
        self, op: Operation, tasks: Sequence[Task], found: dict[int, Any], report: Report
    ) -> None:
        """All that is not done yet, until it is, or until a batch doesn't fit into memory."""
        rest = [place for place in range(len(tasks)) if place not in found]
        lengths = [len(tasks[place].encoded.fed) for place in rest]
        batches = self._runner.plan(lengths, last_only=op.last_only, token_budget=self.budget(op))
        for batch in batches:
            places = [rest[item] for item in batch.items]
            group = [tasks[at] for at in places]
            values = self._tried(op.run, self._runner, group, first=places[0])
            if values is None and len(places) > 1:
                self._shrink(op, batch.positions)
                return
            self.ran.append(RanBatch(tuple(places), batch.positions, batch.tokens))
            found.update(zip(places, values or [_too_large(batch.longest)], strict=True))
            report(batch.tokens)

    def _shrink(self, op: Operation, positions: int) -> None:
        self._budgets[op.name] = max(1, positions // 2)
        _log.warning(
            "%s: a batch of %d positions does not fit into memory; the budget is now %d",
            op.name,
            positions,
            self._budgets[op.name],
        )

    def _tried(self, run: Callable[..., Any], *arguments: Any, first: int) -> Any:
        """What ``run`` gives; None if memory is too small for the batch of the task ``first``."""
        began = time.perf_counter()
        try:
            return run(*arguments)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.refused.append(Refused(first, time.perf_counter() - began, type(error).__name__))
        # Here the failed batch is free: the error's frames held its tensors.
        self.out_of_memory += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small; the CPU and some devices only have words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words
    )


def _too_large(tokens: int) -> ModelMemoryError:
    return ModelMemoryError(f"{tokens} tokens do not fit into memory, not even alone in a batch")

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
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.prefix_group import PrefixGroup, plan_packs
from forwardcache.hf.scoring.provenance import RanBatch
from forwardcache.hf.scoring.task import Task
from forwardcache.operation import Operation

_log = logging.getLogger(__name__)

# What a forward costs in addition to its tokens, and how much is packed behind a prefix, in parts
# of the token budget: both grow with what the device does at once. A CPU has less to do before it
# begins.
_FORWARD_COST = {"cpu": 32, "cuda": 16}
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


class BatchedForwards:
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
        for group in [] if op.every_position else self.prefix_groups(op, tasks):
            self._run_group(op, tasks, group, found, report)
        while len(found) < len(tasks):
            self._run_rest(op, tasks, found, report)
        return [found[position] for position in range(len(tasks))]

    def prefix_groups(self, op: Operation, tasks: Sequence[Task]) -> list[PrefixGroup]:
        """Tasks whose common prefix is computed once."""
        return self._runner.prefix_groups(
            [task.encoded for task in tasks],
            forward_cost=self.budget(op) // _FORWARD_COST[self._runner.device],
            last_only=op.last_only,
        )

    def budget(self, op: Operation) -> int:
        """Most positions in a batch of ``op`` at present."""
        return self._budgets.get(op.name, self._runner.limits.token_budget)

    def _run_group(
        self,
        op: Operation,
        tasks: Sequence[Task],
        group: PrefixGroup,
        found: dict[int, Any],
        report: Report,
    ) -> None:
        """Rows of one prefix; those that don't fit into memory are left to the ordinary way."""
        prefix = tasks[group.items[0]].encoded.fed[: group.shared]
        packs = plan_packs(
            group,
            [len(task.encoded.fed) - group.shared for task in tasks],
            [max(1, len(task.encoded.scored)) for task in tasks],
            most_tokens=self.budget(op) // _PACK[self._runner.device],
            most_needed=self._runner.most_logit_rows,
        )
        shared = self._tried(self._runner.behind, prefix, first=group.items[0])
        for pack in packs if shared is not None else []:
            values = self._tried(op.run, shared, [tasks[at] for at in pack], first=pack[0])
            if values is None:
                return
            rests = sum(len(tasks[at].encoded.fed) - group.shared for at in pack)
            self.ran.append(RanBatch(tuple(pack), rests, rests, group.shared))
            found.update(zip(pack, values, strict=True))
            report(sum(len(tasks[at].encoded.fed) for at in pack))

    def _run_rest(
        self, op: Operation, tasks: Sequence[Task], found: dict[int, Any], report: Report
    ) -> None:
        """All that is not done yet, until it is, or until a batch doesn't fit into memory."""
        rest = [position for position in range(len(tasks)) if position not in found]
        lengths = [len(tasks[position].encoded.fed) for position in rest]
        batches = self._runner.plan(lengths, last_only=op.last_only, token_budget=self.budget(op))
        for batch in batches:
            positions = [rest[item] for item in batch.items]
            group = [tasks[at] for at in positions]
            values = self._tried(op.run, self._runner, group, first=positions[0])
            if values is None and len(positions) > 1:
                self._shrink(op, batch.positions)
                return
            self.ran.append(RanBatch(tuple(positions), batch.positions, batch.tokens))
            found.update(zip(positions, values or [_too_large(batch.longest)], strict=True))
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


def _too_large(tokens: int) -> ModelMemoryError:
    return ModelMemoryError(f"{tokens} tokens do not fit into memory, not even alone in a batch")

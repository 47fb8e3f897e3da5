"""One forward for several views: of one adapter, where that is exact and saves time.

Views of one adapter that differ in its factor only (``base``, ``ft``, ``scaled``) can be rows of
one batch. A caller who will ask for several views of the same items says so (``asked_together``).
The first of them that has to compute something then runs the others' missing values with its own,
and these find theirs when it is their turn. Each view's call is otherwise what it is alone: its own
lookups, misses, events and keys, in the state of the model that the forward was run in.

Whether it is exact and what it saves is measured (``joint_probe``), once for the ways of an
adapter's view (``Ways``: a structure with an adapter's settings), and only when so many forwards
have been run without it as the measurement takes. Values that are not finite are not taken from
such a forward (base's row is 0 times what the adapter adds, which may be infinite), and whatever
goes wrong in one ends it: the views then run one after the other.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.plan import Batch
from forwardcache.hf.batch.row_factors import OtherRowsFed
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.scoring.joint_probe import (
    FORWARDS,
    JointVerdict,
    measured_jointly,
    refused,
    row_factors,
)
from forwardcache.hf.scoring.provenance import RanBatch
from forwardcache.hf.scoring.task import Task
from forwardcache.hf.spec import BASE, FINETUNED, ViewSpec, scaled
from forwardcache.operation import Operation

if TYPE_CHECKING:
    from forwardcache.hf.model.identity import ModelState
    from forwardcache.hf.scoring.call import Call
    from forwardcache.hf.scoring.scorer import Scorer

# More rows than that fill a batch of any model.
_MOST_ROWS = 128

_lock = threading.Lock()
_known: WeakKeyDictionary[Ways, JointVerdict] = WeakKeyDictionary()

Pair = tuple[ViewSpec, Task]


@dataclass(frozen=True, slots=True)
class Taken:
    """A value out of a joint forward.

    Attributes:
        value: The value.
        batch: Positions and tokens of the forward that it comes from.
        state: What its view's values depended on then.
    """

    value: Any
    batch: Batch
    state: ModelState


class JointForwards:
    """What is known of joint forwards of one model's views.

    The caller of every method holds the model's lock.
    """

    def __init__(self) -> None:
        self._own: WeakKeyDictionary[Ways, JointVerdict] = WeakKeyDictionary()
        self._alone: Counter[ViewSpec] = Counter()
        self.is_due = False

    def verdict(self, ways: Ways) -> JointVerdict | None:
        """What was found of an adapter's view ``ft`` that is let do ``ways``; None for nothing."""
        with _lock:
            return self._own.get(ways) or _known.get(ways)

    def refuse(self, ways: Ways, why: str) -> None:
        """Lets this model's views of an adapter run one after the other from here on."""
        self._own[ways] = refused(why)

    def count(self, adapted: ViewSpec, forwards: int) -> None:
        """Takes note of forwards that were run in a view alone, for want of a measurement."""
        self._alone[adapted] += forwards
        self.is_due |= self._alone[adapted] >= FORWARDS

    def measure(self, scorer: Scorer) -> None:
        """Measures, where that takes no more forwards than were run for want of it."""
        due = [spec for spec, forwards in self._alone.items() if forwards >= FORWARDS]
        self.is_due = False
        for adapted in due:
            del self._alone[adapted]
            try:
                ways = _common_ways(scorer, [BASE, scorer.runs_as(adapted)])
                if ways is not None and self.verdict(ways) is None:
                    with scorer.put_on(adapted) as model:
                        verdict = measured_jointly(model, scorer.runner, ways, adapted)
                    with _lock:
                        (_known if verdict.is_of_structure else self._own)[ways] = verdict
            except ForwardCacheError:
                # The adapter is another one by now, or gone.
                continue


class AskedTogether:
    """Views that are asked the same, one after the other, by one thread.

    Args:
        scorer: Whose they are.
        specs: The views.
    """

    def __init__(self, scorer: Scorer, specs: Sequence[ViewSpec]) -> None:
        self.scorer = scorer
        self.thread = threading.get_ident()
        self._left = list(dict.fromkeys(spec.canonical() for spec in specs))
        self._taken: dict[Any, Taken] = {}

    def taken(self, call: Call, tasks: Sequence[Task]) -> list[Any] | None:
        """Values of ``tasks`` where all of them were run before in the call's state; else None."""
        self._left = [spec for spec in self._left if spec != call.spec]
        found = [self._found(call, task) for task in tasks]
        if not all(found):
            return None
        self._write_down(call, tasks, found)
        return [each.value for each in found if each is not None]

    def values(self, call: Call, tasks: Sequence[Task]) -> list[Any]:
        """Values of ``tasks``, as the call would compute them. The caller holds the lock."""
        new = [task for task in tasks if self._found(call, task) is None]
        if new and self._left:
            self._run_ahead(call, new)
        found = [self._found(call, task) for task in tasks]
        new = [task for task, each in zip(tasks, found, strict=True) if each is None]
        following = iter(self.scorer.run(call, new) if new else [])
        self._write_down(call, tasks, found)
        return [next(following) if each is None else each.value for each in found]

    def _found(self, call: Call, task: Task) -> Taken | None:
        """The task's value, if it was run before in the state that the call's keys name."""
        taken = self._taken.get(_key_of(call.spec, call.op, task))
        return taken if taken is not None and taken.state is call.state else None

    def _run_ahead(self, call: Call, tasks: Sequence[Task]) -> None:
        """Runs ``tasks`` in this view and in those to come, if they may share a forward."""
        scorer, op = self.scorer, call.op
        if op.in_windows or len(tasks) > _MOST_ROWS // 2:
            return
        specs = _of_one_adapter(scorer, [call.spec, *self._to_come(call.spec)])
        rows = {
            _key_of(call.spec, op, task): task
            for task in tasks
            if op.without_run(task.encoded) is None
        }
        if len(specs) < 2 or not rows or len(rows) * len(specs) > _MOST_ROWS:
            return
        if sum(len(each.encoded.fed) for each in rows.values()) > scorer.runs.budget(op):
            return
        states = self._states(call, specs)
        pairs = [
            (spec, task)
            for spec in specs
            for task in rows.values()
            if spec == call.spec or not scorer.is_cached(call.beside(spec, states[spec]), task.key)
        ]
        if {spec for spec, _ in pairs} != {call.spec}:
            found = _Joint(scorer, op, pairs).values()
            if self._states(call, specs) == states:
                for at, (value, batch) in found.items():
                    spec, task = pairs[at]
                    if op.is_finite(value):
                        taken = Taken(value, batch, states[spec])
                        self._taken[_key_of(spec, op, task)] = taken

    def _to_come(self, now: ViewSpec) -> list[ViewSpec]:
        """The views that are run after ``now``: of adapters that hold the same, one's."""
        found = []
        for spec in self._left:
            # A view that can't be run says so when it is its turn.
            with suppress(ForwardCacheError):
                found.append(self.scorer.runs_as(spec))
        return [spec for spec in dict.fromkeys(found) if spec != now]

    def _states(self, call: Call, specs: Sequence[ViewSpec]) -> dict[ViewSpec, ModelState]:
        """What each view's values depend on now."""
        if self.scorer.adapters is None:
            # One for all views; whoever runs the call compares it before and after.
            return dict.fromkeys(specs, call.state)
        return {spec: self.scorer.state(spec) for spec in specs}

    def _write_down(self, call: Call, tasks: Sequence[Task], found: Sequence[Taken | None]) -> None:
        """What of these was run before goes to whoever collects it, and is reported as done."""
        done = [(task, each) for task, each in zip(tasks, found, strict=True) if each is not None]
        if not done:
            return
        batches: dict[int, tuple[Batch, list[int]]] = {}
        for position, (_, each) in enumerate(done):
            batches.setdefault(id(each.batch), (each.batch, []))[1].append(position)
        ran = [
            RanBatch(tuple(positions), batch.positions, batch.tokens)
            for batch, positions in batches.values()
        ]
        self.scorer.write_down(call, [task for task, _ in done], ran, [])
        self.scorer.report(call, sum(len(task.encoded.fed) for task, _ in done))


class _Joint:
    """One run of tasks in views of one adapter.

    Args:
        scorer: Whose they are.
        op: What is computed; its ``run`` keeps nothing between two calls.
        pairs: Views and tasks, none twice, of more than one view; each needs a forward.
    """

    def __init__(self, scorer: Scorer, op: Operation, pairs: Sequence[Pair]) -> None:
        self._scorer = scorer
        self._op = op
        self._pairs = pairs
        [name] = {spec.adapter for spec, _ in pairs if spec != BASE}
        self._adapted = replace(FINETUNED, adapter=name)

    def values(self) -> dict[int, tuple[Any, Batch]]:
        """Values with their batches, by position; none where views run one after the other."""
        scorer = self._scorer
        ways = _common_ways(scorer, [*(spec for spec, _ in self._pairs), self._adapted])
        verdict = None if ways is None else scorer.joint.verdict(ways)
        if ways is None or (verdict is not None and not verdict.may_share):
            return {}
        own, scorer.runner.ways = scorer.runner.ways, ways
        try:
            batches = self._planned([task for _, task in self._pairs])
            if batches is None or not self._saves(verdict, batches):
                return {}
            return self._run(ways, batches)
        finally:
            scorer.runner.ways = own

    def _run(self, ways: Ways, batches: Sequence[Batch]) -> dict[int, tuple[Any, Batch]]:
        scorer = self._scorer
        found: dict[int, tuple[Any, Batch]] = {}
        try:
            with scorer.entered(self._adapted) as model, torch.inference_mode():
                for batch in batches:
                    values = self._run_batch(model, [self._pairs[at] for at in batch.items])
                    for at, value in zip(batch.items, values, strict=True):
                        found[at] = value, batch
        except OtherRowsFed:
            # A NaN in some row; the next prompts may have none.
            return found
        except Exception as error:
            # A fault of the caller's shows again in the ordinary way.
            scorer.joint.refuse(ways, f"together they raise {type(error).__name__}")
            if is_out_of_memory(error) and torch.cuda.is_available():
                torch.cuda.empty_cache()
        return found

    def _run_batch(self, model: Any, pairs: Sequence[Pair]) -> list[Any]:
        runner = self._scorer.runner
        rows = [task.encoded.fed for _, task in pairs]
        factors = [_factor(spec) for spec, _ in pairs]
        with row_factors(model, runner, rows, factors):
            return self._op.run(runner, [task for _, task in pairs])

    def _planned(self, tasks: Sequence[Task]) -> list[Batch] | None:
        """The batches; None where a forward couldn't hold all logits that are asked for."""
        runner, op = self._scorer.runner, self._op
        scored = sum(len(task.encoded.scored) + 1 for task in tasks)
        if not op.last_only and scored > runner.most_logit_rows:
            return None
        lengths = [len(task.encoded.fed) for task in tasks]
        budget = self._scorer.runs.budget(op)
        return runner.plan(lengths, last_only=op.last_only, token_budget=budget)

    def _saves(self, verdict: JointVerdict | None, batches: Sequence[Batch]) -> bool:
        scorer = self._scorer
        tasks_of: dict[ViewSpec, list[Task]] = {}
        for spec, task in self._pairs:
            tasks_of.setdefault(spec, []).append(task)
        if any(scorer.runs.prefix_groups(self._op, tasks) for tasks in tasks_of.values()):
            # Rows of one view share a prefix, which saves more.
            return False
        alone: Mapping[ViewSpec, int] = {
            spec: len(self._planned(tasks) or ()) for spec, tasks in tasks_of.items()
        }
        if verdict is None:
            # The others come to this as well.
            scorer.joint.count(self._adapted, alone[self._pairs[0][0]])
            return False
        return verdict.saves(
            of_base=alone.get(BASE, 0),
            of_adapter=sum(alone.values()) - alone.get(BASE, 0),
            joint=len(batches),
            tokens=sum(batch.positions for batch in batches),
        )


_asked: ContextVar[AskedTogether | None] = ContextVar("forwardcache_asked_together", default=None)


@contextmanager
def asked_together(scorer: Scorer, specs: Sequence[ViewSpec]) -> Iterator[None]:
    """While it lasts, this thread asks these views of a scorer for the same items, in this order.

    The views' operations are made anew for each, and keep nothing between two calls.
    """
    token = _asked.set(AskedTogether(scorer, specs))
    try:
        yield
    finally:
        _asked.reset(token)
    if scorer.joint.is_due:
        with scorer.lock:
            scorer.joint.measure(scorer)


def asked_of(scorer: Scorer) -> AskedTogether | None:
    """What this thread asks of several views of ``scorer``; None for views that are asked alone."""
    asked = _asked.get()
    if asked is None or asked.scorer is not scorer or asked.thread != threading.get_ident():
        return None
    return asked


def joint_notes(scorer: Scorer) -> list[str]:
    """What was found of the views of each adapter, in words; nothing where nothing was yet."""
    found = []
    with scorer.lock:
        for spec in scorer.standing_specs():
            verdict = scorer.joint.verdict(scorer.admitted(spec))
            if verdict is not None:
                name = "" if spec.adapter is None else f"{spec.adapter}: "
                found.append(name + verdict.note)
    return found


def forget_all() -> None:
    """Forgets what other models of this process have shown."""
    with _lock:
        _known.clear()


def _of_one_adapter(scorer: Scorer, specs: Sequence[ViewSpec]) -> list[ViewSpec]:
    """Those of ``specs`` that differ from the first in an adapter's factor alone; base first."""
    of_adapters = [spec for spec in specs if spec.kind in ("ft", "scaled")]
    if specs[0] not in (BASE, *of_adapters) or not of_adapters:
        return []
    name = of_adapters[0].adapter
    try:
        scorer.runs_as(replace(scaled(0.5), adapter=name))
        scorer.runs_as(BASE)
    except ForwardCacheError:
        return []
    found = [spec for spec in of_adapters if spec.adapter == name]
    return [BASE, *found] if BASE in specs else found


def _common_ways(scorer: Scorer, specs: Sequence[ViewSpec]) -> Ways | None:
    """What the last of the views is let do; None where others aren't let do the same."""
    found = [scorer.admitted(spec) for spec in dict.fromkeys(specs)]
    last = scorer.admitted(specs[-1])
    kinds = {(each.batches, each.is_masked, each.takes_positions) for each in found}
    return last if len(kinds) == 1 and last.batches != "single" else None


def _factor(spec: ViewSpec) -> float:
    """What a view multiplies the adapter by."""
    return 0.0 if spec.kind == "base" else spec.lam


def _key_of(spec: ViewSpec, op: Operation, task: Task) -> Any:
    tokens = task.encoded
    asked = type(op), op.top_k, op.argument(task.item)
    return spec, asked, tokens.token_ids, tokens.first_scored


__all__ = ["AskedTogether", "JointForwards", "Taken", "asked_of", "asked_together", "joint_notes"]

"""Random programs of one thread, beside a model: bytes, invalidation, nesting, failures.

A program is a step, and a step that computes may hold further steps that run inside its
computation. After every step the entries, their bytes and every counter are those of the model.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from forwardcache.instrumentation import _MISS, BackendInstrumentation, ForwardCache
from tests import proof
from tests.instrumentation.counted import CountedMachine
from tests.instrumentation.sequential import TOP_K, Key, Sequential, Weighed, size_of

OPS, VIEWS, PROMPTS = ("dist", "roll"), ("base", "ft"), "abcd"
EVERY_KEY = list(itertools.product(OPS, VIEWS, PROMPTS, [TOP_K]))
COUNTERS = (
    *("cache_hits", "cache_misses", "forward_passes", "failed_computes"),
    *("batches_sent", "batched_prompts", "max_batch_size"),
)


class ComputeError(Exception):
    """What a failing computation raises."""


class Ours:
    """The package, asked as the model is."""

    def __init__(self, maxsize: int | None, max_bytes: int | None) -> None:
        self.inst = BackendInstrumentation()
        self.inst.cache = ForwardCache(maxsize)
        if max_bytes is not None:
            self.inst.cache = ForwardCache(maxsize, max_bytes=max_bytes, weigher=size_of)
        self.cache: Any = self.inst.cache
        self.get, self.put, self.peek = self.cache.get, self.cache.put, self.cache.peek
        self.clear, self.contains = self.cache.clear, self.cache.__contains__

    def invalidate(self, view_id: str | None, op: str | None) -> int:
        return self.inst.invalidate(view_id, op=op)

    def cached(self, op: str, view_id: str, prompt: str, compute: Any) -> object:
        return self.inst.cached(op, view_id, prompt, TOP_K, compute)

    def cached_batch(self, op: str, view_id: str, prompts: list[str], compute: Any) -> object:
        return self.inst.cached_batch(op, view_id, prompts, TOP_K, compute)


class Run:
    """One program on one of the two, and what came of each of its steps."""

    def __init__(self, asked: Any, number: int) -> None:
        self.asked = asked
        self.numbers: Iterator[tuple[int, int]] = zip(itertools.repeat(number), itertools.count())
        self.outcomes: list[object] = []

    def value(self, size: int) -> Weighed:
        number, turn = next(self.numbers)
        return Weighed(1000 * number + turn, size)

    def perform(self, step: Any) -> list[object]:
        try:
            outcome = step.run(self)
        except (ComputeError, RuntimeError) as error:
            outcome = type(error)
        self.outcomes.append((step, outcome))
        return self.outcomes


class Use(NamedTuple):
    """Looks at a key, or stores it."""

    how: str
    key: Key
    size: int

    def run(self, run: Run) -> object:
        use = getattr(run.asked, self.how)
        return use(self.key, run.value(self.size)) if self.how == "put" else use(self.key)


class Drop(NamedTuple):
    """Invalidates; or clears."""

    op: str | None
    view_id: str | None
    clears: bool

    def run(self, run: Run) -> object:
        return run.asked.clear() if self.clears else run.asked.invalidate(self.view_id, self.op)


class Ending(NamedTuple):
    """What a computation does: other steps first, then it gives values of a size, or fails."""

    inside: tuple[Any, ...]
    size: int
    fails: bool
    lacking: int

    def compute(self, run: Run, indices: list[int]) -> list[Weighed]:
        run.outcomes.append(indices)
        for step in self.inside:
            run.perform(step)
        if self.fails:
            raise ComputeError
        return [run.value(self.size) for _ in indices][self.lacking :]


class Call(NamedTuple):
    """A call of ``cached``."""

    op: str
    view_id: str
    prompt: str
    ending: Ending

    def run(self, run: Run) -> object:
        def compute() -> Weighed:
            return self.ending._replace(lacking=0).compute(run, [0])[0]

        return run.asked.cached(self.op, self.view_id, self.prompt, compute)


class BatchCall(NamedTuple):
    """A call of ``cached_batch``; prompts may stand in it several times."""

    op: str
    view_id: str
    prompts: list[str]
    ending: Ending

    def run(self, run: Run) -> object:
        compute = partial(self.ending.compute, run)
        return run.asked.cached_batch(self.op, self.view_id, self.prompts, compute)


OP, VIEW, PROMPT = st.sampled_from(OPS), st.sampled_from(VIEWS), st.sampled_from(PROMPTS)
SIZE = st.sampled_from([0, 1, 1, 2, 3, 9])
RARELY = st.sampled_from([False] * 5 + [True])
# `_make` rather than `st.builds`, which also records how each nested step was made, to print it.
HOW = st.sampled_from(["get", "put", "peek", "contains"])
USE = st.tuples(HOW, st.sampled_from(EVERY_KEY), SIZE).map(Use._make)
DROP = st.tuples(st.none() | OP, st.none() | VIEW, RARELY).map(Drop._make)
LACKING = st.sampled_from([0] * 7 + [1])


def calls(inside: st.SearchStrategy[tuple[Any, ...]]) -> st.SearchStrategy[Any]:
    ending = st.tuples(inside, SIZE, RARELY, LACKING).map(Ending._make)
    single = st.tuples(OP, VIEW, PROMPT, ending).map(Call._make)
    prompts = st.lists(PROMPT, max_size=6)
    return single | st.tuples(OP, VIEW, prompts, ending).map(BatchCall._make)


STEP = st.recursive(
    USE | DROP | calls(st.just(())),
    lambda steps: calls(st.lists(steps, max_size=3).map(tuple)),
    max_leaves=6,
)


class SequentialMachine(CountedMachine):
    @initialize(
        maxsize=st.none() | st.integers(1, 6),
        max_bytes=st.none() | st.integers(1, 8),
    )
    def begin(self, maxsize: int | None, max_bytes: int | None) -> None:
        self.ours = Ours(maxsize, max_bytes)
        self.model = Sequential(maxsize, max_bytes, _MISS)
        self.numbers = itertools.count()

    @rule(step=STEP)
    def perform(self, step: Any) -> None:
        number = next(self.numbers)
        expected = Run(self.model, number).perform(step)
        assert Run(self.ours, number).perform(step) == expected

    @invariant()
    def the_entries_and_their_bytes_are_those_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        cache, model = self.ours.cache, self.model
        assert [cache.peek(key) for key in EVERY_KEY] == [model.peek(key) for key in EVERY_KEY]
        assert len(cache) == len(model.entries)
        assert cache.nbytes == model.nbytes

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        stats, cache, model = self.ours.inst.stats, self.ours.cache, self.model
        assert {each: getattr(stats, each) for each in COUNTERS} == {
            each: getattr(model, each) for each in COUNTERS
        }
        assert (cache.evictions, cache.too_large) == (model.evictions, model.too_large)


TestSequentialMachine = SequentialMachine.TestCase
TestSequentialMachine.settings = settings(
    max_examples=80 * proof.EXAMPLES, stateful_step_count=40, deadline=None
)

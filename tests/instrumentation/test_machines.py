"""Random sequences of calls, beside a model that is right by being simple.

``CacheMachine`` drives ``ForwardCache`` beside an ``OrderedDict``, bounded in entries and bytes;
``CallMachine`` drives ``cached`` and ``cached_batch`` beside the plain-Python model, with failing
and nested computations, repeated prompts, invalidations, replaced parts and probes; a long seeded
run does the same for 10,000 operations, or ``FORWARDCACHE_OPERATIONS``.

Compared: returns, evictions, counters, bytes, events apart from ``ts``, ``wall_ms`` and ``key``.
Not checked here: several threads.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from forwardcache import instrumentation
from tests import proof
from tests.instrumentation import plain
from tests.instrumentation.counted import CountedMachine
from tests.instrumentation.doubles import FIELDS, RecordingTrace, read_events
from tests.instrumentation.texts import COLLIDING


class Named:
    """A field that only Python can compare."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name[0])

    def __repr__(self) -> str:
        return f"Named({self.name!r})"


# Few keys, so that they meet again; many of them equal across types, or of one hash.
NUMBERS = st.sampled_from([0, 1, 2, True, False, 1.0, 2.0, -0.0, Fraction(1), 1 + 0j, -1, -2])
HUGE = st.sampled_from([2**61 - 1, 2**61, float(2**61)])
TEXTS = st.sampled_from(["a", "b", "é", "\ud800", b"a"])
OBJECTS = st.builds(Named, st.sampled_from(["a1", "a2", "b1"]))
NESTED = st.sampled_from([(), (1,), (True,), (1.0, "a"), frozenset({1, 2}), frozenset({2.0, True})])
FIELD = st.one_of(NUMBERS, HUGE, TEXTS, OBJECTS, NESTED, st.none())
KEYS = st.one_of(st.tuples(FIELD), st.tuples(FIELD), st.tuples(TEXTS, NUMBERS), st.just(()))


class Weighed(NamedTuple):
    """A value that says what it weighs."""

    number: int
    nbytes: int


WEIGHTS = st.integers(0, 12)


class CacheMachine(CountedMachine):
    @initialize(
        maxsize=st.one_of(st.none(), st.integers(1, 8)),
        max_bytes=st.one_of(st.none(), st.integers(1, 24)),
    )
    def begin(self, maxsize: int | None, max_bytes: int | None) -> None:
        self.maxsize, self.max_bytes = maxsize, max_bytes
        self.cache: Any = instrumentation.ForwardCache(
            maxsize, max_bytes=max_bytes, weigher=lambda _, value: value.nbytes
        )
        self.model: OrderedDict[Hashable, Weighed] = OrderedDict()
        self.numbers = itertools.count()
        self.evictions = self.too_large = 0

    @rule(key=KEYS)
    def get(self, key: Hashable) -> None:
        assert self.cache.get(key) == self.model.get(key, instrumentation._MISS)
        if key in self.model:
            self.model.move_to_end(key)

    @rule(key=KEYS, weight=WEIGHTS)
    def put(self, key: Hashable, weight: int) -> None:
        value = Weighed(next(self.numbers), weight)
        self.cache.put(key, value)
        if self.max_bytes is not None and weight > self.max_bytes:
            self.model.pop(key, None)
            self.too_large += 1
            return
        # The key that stood first stays, as in a dict.
        self.model[key] = value
        self.model.move_to_end(key)
        while self.is_over():
            self.model.popitem(last=False)
            self.evictions += 1

    def is_over(self) -> bool:
        too_many = self.maxsize is not None and len(self.model) > self.maxsize
        return too_many or (self.max_bytes is not None and self.held() > self.max_bytes)

    def held(self) -> int:
        return sum(value.nbytes for value in self.model.values())

    @rule(key=KEYS)
    def peek(self, key: Hashable) -> None:
        assert self.cache.peek(key) == self.model.get(key, instrumentation._MISS)

    @rule(key=KEYS)
    def look(self, key: Hashable) -> None:
        assert (key in self.cache) == (key in self.model)

    @precondition(lambda self: len(self.model) > 2)
    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def the_entries_are_those_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        assert len(self.cache) == len(self.model)
        assert self.cache.nbytes == (0 if self.max_bytes is None else self.held())
        assert (self.cache.evictions, self.cache.too_large) == (self.evictions, self.too_large)
        for key, value in self.model.items():
            assert self.cache.peek(key) == value


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=60 * proof.EXAMPLES, stateful_step_count=60, deadline=None
)


class ComputeError(Exception):
    """What a failing computation raises."""


class Setting(NamedTuple):
    """What a call is asked in addition to its prompts."""

    op: str
    view_id: str
    top_k: object
    scope: bytes


class Pair:
    """The package and the model, asked the same things."""

    def __init__(self, folder: Path, maxsize: int | None) -> None:
        self.ours: Any = instrumentation.BackendInstrumentation(
            cache_maxsize=maxsize, trace_path=folder / "trace.jsonl"
        )
        self.model = plain.BackendInstrumentation(cache_maxsize=maxsize)
        self.folder = folder
        self.expected = RecordingTrace()
        self.model.trace = self.expected  # type: ignore[assignment]
        self.numbers = itertools.count()

    def both(self, ask: Callable[[Any, int], object]) -> None:
        """Asks both with one fresh number, out of which they make their values."""
        number = next(self.numbers)
        assert _outcome(ask, self.ours, number) == _outcome(ask, self.model, number)

    def cached(self, setting: Setting, prompt: object, *, fails: bool = False) -> None:
        def ask(inst: Any, number: int) -> object:
            def compute() -> int:
                if fails:
                    raise ComputeError
                return number

            op, view_id, top_k, scope = setting
            return inst.cached(op, view_id, prompt, top_k, compute, scope=scope)

        self.both(ask)

    def cached_batch(
        self, setting: Setting, prompts: list[Any], *, lacking: int = 0, fails: bool = False
    ) -> None:
        def ask(inst: Any, number: int) -> object:
            asked: list[int] = []

            def compute(indices: list[int]) -> list[tuple[int, int]]:
                asked.extend(indices)
                if fails:
                    raise ComputeError
                return [(number, index) for index in indices][lacking:]

            op, view_id, top_k, scope = setting
            return inst.cached_batch(op, view_id, prompts, top_k, compute, scope=scope), asked

        self.both(ask)

    def nested(self, setting: Setting, outer: object, inner: object) -> None:
        """A computation that asks for another key."""

        def ask(inst: Any, number: int) -> object:
            op, view_id, top_k, scope = setting

            def compute() -> object:
                value = inst.cached(op, "inner", inner, top_k, lambda: number, scope=scope)
                return (number, value)

            return inst.cached(op, view_id, outer, top_k, compute, scope=scope)

        self.both(ask)

    def invalidate(self, view_id: str | None, op: str | None) -> None:
        entries = self.model.cache._entries
        gone: list[Any] = [
            key
            for key in entries
            if op in (None, key[0]) and view_id in (None, key[1])  # type: ignore[index]
        ]
        for key in gone:
            del entries[key]
        assert self.ours.invalidate(view_id, op=op) == len(gone)

    def check_counters(self) -> None:
        assert _without_times(asdict(self.ours.stats)) == _without_times(asdict(self.model.stats))
        assert len(self.ours.cache) == len(self.model.cache)

    def check_events(self) -> None:
        lines = read_events(self.folder / "trace.jsonl", self.ours.trace)
        ours = [_without_times({name: line[name] for name in FIELDS}) for line in lines]
        assert ours == [_without_times(asdict(event)) for event in self.expected.events]

    def replace_stats(self) -> None:
        self.ours.stats, self.model.stats = instrumentation.BackendStats(), plain.BackendStats()

    def replace_cache(self, maxsize: int | None) -> None:
        self.ours.cache = instrumentation.ForwardCache(maxsize)
        self.model.cache = plain.ForwardCache(maxsize)

    def replace_trace(self) -> None:
        self.ours.trace = instrumentation.TraceWriter(self.folder / "trace.jsonl")


def _outcome(ask: Callable[[Any, int], object], inst: Any, number: int) -> object:
    try:
        return ask(inst, number)
    except (ComputeError, RuntimeError) as error:
        return repr(error)


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if name not in ("ts", "wall_ms", "scoring_wall_s")
    }


PROMPTS = ["a", "b", "é\ud800", "x" * 5_000, ("a",), ("a", "b"), ("a\0b", "c"), ("a", "b\0c")]
PROMPTS += [prompt for pair in COLLIDING for prompt in pair]
PROMPT = st.sampled_from(PROMPTS)
SETTINGS = [
    Setting(*fields)
    for fields in itertools.product(
        ["op", "other"], ["base", "ft"], [1, True, 1.0, 8], [b"", b"weights"]
    )
]
SETTING = st.sampled_from(SETTINGS)
PROBES = [None, "one", "two é"]
RARELY = st.sampled_from([False] * 7 + [True])


class CallMachine(CountedMachine):
    @initialize(maxsize=st.one_of(st.none(), st.integers(1, 8)))
    def begin(self, maxsize: int | None) -> None:
        self.exits = ExitStack()
        folder = Path(self.exits.enter_context(TemporaryDirectory()))
        self.pair = Pair(folder, maxsize)

    @rule(prompt=PROMPT, setting=SETTING, fails=RARELY)
    def cached(self, prompt: object, setting: Setting, fails: bool) -> None:
        self.pair.cached(setting, prompt, fails=fails)

    @rule(
        prompts=st.lists(PROMPT, max_size=12),
        setting=SETTING,
        lacking=st.sampled_from([0] * 7 + [1]),
        fails=RARELY,
    )
    def cached_batch(
        self, prompts: list[object], setting: Setting, lacking: int, fails: bool
    ) -> None:
        self.pair.cached_batch(setting, prompts, lacking=lacking, fails=fails)

    @rule(outer=PROMPT, inner=PROMPT, setting=SETTING)
    def nested(self, outer: object, inner: object, setting: Setting) -> None:
        self.pair.nested(setting, outer, inner)

    @rule(
        view_id=st.sampled_from([None, "base", "ft", "inner", "nobody's"]),
        op=st.sampled_from([None, "op", "other"]),
    )
    def invalidate(self, view_id: str | None, op: str | None) -> None:
        self.pair.invalidate(view_id, op)

    @rule()
    def clear(self) -> None:
        self.pair.ours.cache.clear()
        self.pair.model.cache.clear()

    @rule(name=st.sampled_from(PROBES))
    def set_current_probe(self, name: str | None) -> None:
        self.pair.ours.set_current_probe(name)
        self.pair.model.set_current_probe(name)

    @rule(name=st.sampled_from(["scoped", "inner"]), prompt=PROMPT)
    def cached_by_a_probe(self, name: str, prompt: object) -> None:
        with self.pair.ours.probe(name), self.pair.model.probe(name):
            self.pair.cached(SETTINGS[0], prompt)

    @rule(part=st.sampled_from(["replace_stats", "replace_trace"]))
    def replace(self, part: str) -> None:
        getattr(self.pair, part)()

    @rule(maxsize=st.integers(1, 8))
    def replace_cache(self, maxsize: int) -> None:
        self.pair.replace_cache(maxsize)

    @invariant()
    def counters_are_those_of_the_model(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check_counters()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check_events()
            self.exits.close()


TestCallMachine = CallMachine.TestCase
TestCallMachine.settings = settings(
    max_examples=40 * proof.EXAMPLES, stateful_step_count=40, deadline=None
)


OPERATIONS = proof.knob("OPERATIONS", 10_000)


def test_a_long_run_is_that_of_the_model(tmp_path: Path) -> None:
    random, pair = Random(20_240_229 + proof.SEED), Pair(tmp_path, 24)
    for turn in range(OPERATIONS):
        setting, fails = random.choice(SETTINGS), random.random() < 0.05
        if random.random() < 0.7:
            pair.cached(setting, random.choice(PROMPTS), fails=fails)
        else:
            prompts = random.choices(PROMPTS, k=random.randrange(16))
            lacking = int(random.random() < 0.05)
            pair.cached_batch(setting, prompts, lacking=lacking, fails=fails)
        if turn % 500 == 0:
            probe = random.choice(PROBES)
            pair.ours.set_current_probe(probe)
            pair.model.set_current_probe(probe)
        if turn % 100 == 0:
            pair.check_counters()
    pair.check_counters()
    pair.check_events()
    assert pair.model.stats.cache_hits > 1_000
    assert pair.model.stats.cache_misses > 1_000
    proof.done["operations"] += OPERATIONS

"""What is promised to several threads, one promise a test.

Promises that have tests of their own elsewhere are listed in ``docs/guarantees.md``.
"""

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardcache import instrumentation
from tests.instrumentation.doubles import read_events
from tests.instrumentation.living import Living, Value
from tests.instrumentation.together import LONG, Askers, seen, together

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

pytestmark = pytest.mark.thread_unsafe(reason="sets the interpreter's switch interval")


@pytest.fixture(autouse=True, scope="module")
def _switch_all_the_time() -> Iterator[None]:
    """Makes the interpreter change threads as often as it can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


def instrument(maxsize: int | None = 256, **options: Any) -> Any:
    return instrumentation.BackendInstrumentation(cache_maxsize=maxsize, **options)


def test_counters_are_exact_under_16_threads_that_share_their_keys() -> None:
    inst, rounds = instrument(5), 150

    def score(number: int) -> int:
        computed, random = 0, Random(number)

        def compute_misses(indices: list[int]) -> list[int]:
            nonlocal computed
            computed += len(indices)
            return indices

        for _ in range(rounds):
            prompts = [f"prompt {random.randrange(9)}" for _ in range(3)]
            inst.cached_batch("op", "view", prompts, 8, compute_misses)
            inst.cached("op", "view", prompts[0], 8, partial(compute_misses, [0]))
        return computed

    computed = together([partial(score, number) for number in range(16)])
    stats = inst.stats
    assert stats.forward_passes == stats.cache_misses == sum(computed)
    assert stats.total_lookups == 16 * rounds * 4
    assert stats.duplicate_computes == stats.failed_computes == 0
    assert stats.evictions == inst.cache.evictions == stats.forward_passes - len(inst.cache)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), min_size=2, max_size=4)
)
def test_overlapping_batches_compute_each_key_once_in_any_overlap_order(
    batches: list[list[str]],
) -> None:
    inst, computed = instrument(), list[str]()

    def score(prompts: list[str]) -> Any:
        def compute_misses(indices: list[int]) -> list[str]:
            computed.extend(prompts[index] for index in indices)
            time.sleep(0.001)
            return [prompts[index].upper() for index in indices]

        return inst.cached_batch("op", "view", prompts, 8, compute_misses)

    results = together([partial(score, prompts) for prompts in batches])
    assert results == [[prompt.upper() for prompt in prompts] for prompts in batches]
    assert sorted(computed) == sorted({prompt for prompts in batches for prompt in prompts})
    assert inst.stats.forward_passes == inst.stats.cache_misses == len(computed)
    assert inst.stats.total_lookups == sum(map(len, batches))


def test_a_del_that_calls_the_cache_cannot_deadlock_it() -> None:
    inst = instrument(3)

    class Farewell:
        def __del__(self) -> None:
            inst.cached("op", "view", "bye", 8, str)
            inst.cached_batch("op", "view", ["bye", "so long"], 8, list)
            inst.invalidate("nobody")

    def use(number: int) -> None:
        random = Random(number)
        for _ in range(100):
            inst.cached("op", "view", f"prompt {random.randrange(6)}", 8, Farewell)
            if random.random() < 0.1:
                inst.invalidate("view")
            if random.random() < 0.1:
                inst.cache.clear()

    assert together([partial(use, number) for number in range(4)]) == [None] * 4
    assert len(inst.cache) <= 3


def test_an_eq_that_calls_the_cache_cannot_deadlock_it() -> None:
    inst = instrument(3)

    class Prompt(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            inst.cached("op", "view", "inside", 8, str)
            inst.cache.get(("op", "view", "inside", 8))
            return str(self) == str(other)

    def use(number: int) -> None:
        random = Random(number)
        for _ in range(100):
            prompt = Prompt(random.choice("abcdef"))
            assert inst.cached("op", "view", prompt, 8, partial(str, prompt)) == str(prompt)
            if random.random() < 0.1:
                inst.invalidate("view")

    assert together([partial(use, number) for number in range(4)]) == [None] * 4
    assert len(inst.cache) <= 3


@pytest.mark.parametrize("calls", ["put", "cached"])
def test_a_cache_of_two_never_keeps_more_than_two_objects_alive(calls: str) -> None:
    inst, living = instrument(2), Living()
    for number in range(100_000):
        if calls == "put":
            inst.cache.put(("op", "view", number, 8), living.make())
        else:
            inst.cached("op", "view", str(number), 8, living.make)
        if len(living) > 2:
            raise AssertionError(f"{len(living)} objects are alive after call {number}")
    assert len(living) == len(inst.cache) == 2


@pytest.mark.parametrize("threads", [1, 4])
def test_a_cache_of_two_keeps_one_object_more_alive_for_each_running_call(threads: int) -> None:
    inst, living = instrument(2), Living()
    meeting = threading.Barrier(threads)

    def use(number: int) -> tuple[int, int]:
        most, most_at_rest, random = 0, 0, Random(number)
        for turn in range(2_000):
            prompt = str(random.randrange(4))
            inst.cache.put(("op", "view", prompt, 8), living.make())  # often replaces a value
            inst.cached("op", "view", prompt, 8, living.make)
            if turn % 7 == 0:
                inst.invalidate(op="op")
            if turn % 11 == 0:
                inst.cache.clear()
            most = max(most, len(living))
            if turn % 50 == 0:
                meeting.wait(LONG)
                meeting.wait(LONG)
                most_at_rest = max(most_at_rest, len(living))
                meeting.wait(LONG)
        return most, most_at_rest

    for most, most_at_rest in together([partial(use, number) for number in range(threads)]):
        assert most_at_rest <= 2, "no call runs"
        # Without a GIL, what another thread lets go of is freed when its maker's thread comes by.
        if HAS_GIL:
            assert most <= 2 + (threads - 1), "its own call has returned, the others' may run"
    assert len(living) == len(inst.cache) <= 2
    inst.invalidate()
    assert len(living) == 0


def test_the_probe_is_that_of_the_context_that_made_the_call_else_the_last_one_set(
    tmp_path: Path,
) -> None:
    inst, computing = instrument(trace_path=tmp_path / "trace.jsonl"), threading.Event()
    inst.set_current_probe("last set")
    askers = Askers()

    def compute() -> str:
        computing.set()
        askers.all_wait(2)
        return "value"

    def own() -> None:
        with inst.probe("owner"):
            inst.cached("op", "view", "prompt", 8, compute)

    def wait() -> None:
        seen(computing)
        askers.come()
        with inst.probe("waiter"):
            inst.cached_batch("op", "view", ["prompt"], 8, list)

    def wait_without_a_label() -> None:
        seen(computing)
        askers.come()
        inst.cached("op", "view", "prompt", 8, compute)

    assert together([own, wait, wait_without_a_label]) == [None] * 3
    events = read_events(tmp_path / "trace.jsonl", inst.trace)
    labels = {(event["probe"], event["hit"]) for event in events}
    assert labels == {("owner", False), ("waiter", True), ("last set", True)}
    assert inst.stats.waits == 2


def test_close_during_writes_raises_nothing_and_loses_nothing_accepted(tmp_path: Path) -> None:
    inst, closing = instrument(trace_path=tmp_path / "trace.jsonl"), threading.Event()
    begun = threading.Barrier(5)

    def close() -> None:
        begun.wait(LONG)
        time.sleep(0.05)
        closing.set()
        inst.close()

    def score(number: int) -> set[str]:
        """Views of the calls that had returned before ``close`` was called."""
        accepted, turn, end = set(), 0, 200
        while turn < end:
            if turn == 1:
                begun.wait(LONG)
            view, turn = f"{number} {turn}", turn + 1
            inst.cached("op", view, "prompt", 8, str)
            if not closing.is_set():
                accepted.add(view)
                end = turn + 200
        return accepted

    closed, *accepted = together([close, *(partial(score, number) for number in range(4))])
    assert closed is None
    assert all(isinstance(each, set) for each in accepted), accepted
    written = [event["view_id"] for event in read_events(tmp_path / "trace.jsonl")]
    assert len(written) == len(set(written))
    assert set().union(*accepted) <= set(written)
    assert any(accepted)


class RefusedError(Exception):
    """What a computation of the mixed calls raises now and then."""


class Mixed:
    """Calls of all kinds on one instrumentation, each checked, for one thread."""

    KINDS = ("cached", "failing", "batch", "use", "invalidate", "clear")
    WEIGHTS = (10, 2, 6, 8, 1, 1)

    def __init__(self, inst: Any, living: Living, seed: int) -> None:
        self.inst, self.living, self.random = inst, living, Random(seed)
        self.lookups = self.computed = self.failed = 0

    def run(self, turns: int) -> None:
        for kind in self.random.choices(self.KINDS, self.WEIGHTS, k=turns):
            getattr(self, kind)()

    def key(self) -> tuple[str, str, str, int]:
        random = self.random
        return (random.choice(["dist", "roll"]), random.choice(["base", "ft"]), self.prompt(), 8)

    def prompt(self) -> str:
        return f"prompt {self.random.randrange(6)}"

    def compute(self, key: Any) -> Value:
        self.computed += 1
        return self.living.make(key)

    def refuse(self) -> Value:
        self.failed += 1
        raise RefusedError

    def cached(self) -> None:
        self.lookups += 1
        key = self.key()
        assert self.inst.cached(*key, partial(self.compute, key)).key == key

    def failing(self) -> None:
        self.lookups += 1
        key = self.key()
        with suppress(RefusedError):
            assert self.inst.cached(*key, self.refuse).key == key

    def batch(self) -> None:
        op, view, _, top_k = self.key()
        prompts = [self.prompt() for _ in range(5)]
        keys = [(op, view, prompt, top_k) for prompt in prompts]
        self.lookups += len(prompts)
        values = self.inst.cached_batch(
            op, view, prompts, top_k, lambda indices: [self.compute(keys[each]) for each in indices]
        )
        assert [value.key for value in values] == keys

    def use(self) -> None:
        key, cache = self.key(), self.inst.cache
        for value in (cache.get(key), cache.peek(key)):
            assert value is instrumentation._MISS or value.key == key
        if self.random.random() < 0.3:
            cache.put(key, self.living.make(key))

    def invalidate(self) -> None:
        op, view, _, _ = self.key()
        assert self.inst.invalidate(view, op=self.random.choice([op, None])) >= 0

    def clear(self) -> None:
        self.inst.cache.clear()


def test_mixed_calls_of_8_threads_give_the_keys_value_add_up_and_leak_nothing() -> None:
    inst, living = instrument(7), Living()
    mixed = [Mixed(inst, living, seed) for seed in range(8)]
    assert together([partial(each.run, 500) for each in mixed]) == [None] * 8
    stats = inst.stats
    assert stats.total_lookups == sum(each.lookups for each in mixed)
    assert stats.forward_passes == sum(each.computed for each in mixed)
    assert stats.failed_computes == sum(each.failed for each in mixed) > 0
    assert stats.cache_misses == stats.forward_passes + stats.failed_computes
    assert stats.duplicate_computes == 0
    assert len(inst.cache) <= 7
    gc.collect()
    assert len(living) == len(inst.cache)
    inst.cache.clear()
    assert len(living) == 0

"""Calls from several threads at once: exact counters, whole lines, no value of another's key.

Not checked here: one computation for several threads that miss one key; the core's own races.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from tests.instrumentation.doubles import never, read_events
from tests.instrumentation.together import LONG

THREADS = 16

pytestmark = pytest.mark.thread_unsafe(reason="sets the interpreter's switch interval")


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Makes the interpreter change threads about every ten microseconds."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval_s)


def in_threads(count: int, run: Callable[[int], object]) -> None:
    """Runs ``run(number)`` in ``count`` threads that begin together; raises what one raised."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait(LONG)
        run(number)

    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(begin, number) for number in range(count)]:
            done.result(LONG)


def test_counters_are_exact_under_16_threads(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation(cache_maxsize=None)

    def score(number: int) -> None:
        for turn in range(200):
            inst.cached("op", "view", f"{number} {turn}", 8, str)
            inst.cached("op", "view", f"{number} {turn}", 8, never)
            inst.cached_batch("op", "view", [f"{number} {turn}", f"b {number} {turn}"], 8, list)

    in_threads(THREADS, score)
    calls, stats = THREADS * 200, inst.stats
    assert (stats.cache_hits, stats.cache_misses, stats.forward_passes) == (
        2 * calls,
        2 * calls,
        2 * calls,
    )
    assert (stats.batches_sent, stats.batched_prompts, stats.max_batch_size) == (calls, calls, 1)
    assert len(inst.cache) == 2 * calls


def test_what_many_threads_counted_is_one_sum(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation(cache_maxsize=None)

    def score(number: int) -> None:
        for compute in (str, never):
            inst.cached("op", f"view {number % 3}", f"{number}", 8, compute)

    in_threads(20, score)
    stats = inst.stats
    calls = stats.calls()
    assert set(calls) == {("op", f"view {number}") for number in range(3)}
    assert [calls["op", f"view {number}"].hits for number in range(3)] == [7, 7, 6]
    assert stats.by_op()["op"].misses == 20

    before = stats.snapshot()
    in_threads(20, lambda _number: inst.cached("op", "view 1", "1", 8, never))
    since = stats.since(before)
    assert (since.cache_hits, since.cache_misses) == (20, 0)
    hits = {view: figures.hits for view, figures in since.by_view().items()}
    assert hits == {"view 0": 0, "view 1": 20, "view 2": 0}
    assert since.scoring_wall_s == pytest.approx(stats.scoring_wall_s - before.scoring_wall_s)
    assert (stats + since).cache_hits == 60

    stats.cache_hits = 5
    assert stats.cache_hits == 5
    in_threads(20, lambda _number: inst.cached("op", "view 1", "1", 8, never))
    assert stats.cache_hits == 25


def test_a_value_is_always_that_of_its_key(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation(cache_maxsize=8)

    def score(number: int) -> None:
        random = Random(number)
        for _ in range(1_000):
            prompt, view = f"prompt {random.randrange(12)}", f"view {random.randrange(3)}"
            value = inst.cached("op", view, prompt, 8, partial(tuple, (view, prompt)))
            assert value == (view, prompt)

    in_threads(4, score)
    assert len(inst.cache) <= 8
    assert inst.stats.total_lookups == 4_000
    assert inst.stats.forward_passes == inst.stats.cache_misses


def test_the_capacity_holds_when_all_threads_are_done(rust: ModuleType) -> None:
    cache = rust.ForwardCache(5)

    def use(number: int) -> None:
        random = Random(number)
        for _ in range(2_000):
            key = (random.randrange(20), "key")
            if cache.get(key) is rust._MISS:
                cache.put(key, key)
            if random.random() < 0.01:
                cache.clear()
            assert len(cache) <= 5 + 4

    in_threads(4, use)
    assert len(cache) <= 5
    assert sum((number, "key") in cache for number in range(20)) == len(cache)


def test_keys_and_values_with_python_code_cannot_deadlock(rust: ModuleType) -> None:
    cache = rust.ForwardCache(4)

    class Field:
        def __init__(self, number: int) -> None:
            self.number = number

        def __eq__(self, other: object) -> bool:
            cache.get(("other", self.number))
            time.sleep(0)
            return isinstance(other, Field) and self.number == other.number

        def __hash__(self) -> int:
            return self.number % 3

    class Farewell:
        def __del__(self) -> None:
            cache.put(("other", 1), None)
            time.sleep(0)

    def use(number: int) -> None:
        random = Random(number)
        for _ in range(300):
            key = (Field(random.randrange(9)),)
            if cache.get(key) is rust._MISS:
                cache.put(key, Farewell())

    in_threads(4, use)
    assert len(cache) <= 4


def test_lines_of_several_threads_are_whole(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    inst = rust.BackendInstrumentation(trace_path=path)

    def score(number: int) -> None:
        with inst.probe(f"probe {number}"):
            for turn in range(100):
                inst.cached("op" * number, f"view {number}", "é" * turn, turn, str)
                inst.cached_batch("op", f"view {number}", ["a", "b"], turn, list)

    in_threads(8, score)
    lines = read_events(path, inst.trace)
    assert len(lines) == 8 * 300
    for line in lines:
        assert line["probe"] == line["view_id"].replace("view", "probe")


def test_close_during_calls_raises_nothing_and_loses_nothing(
    rust: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    inst = rust.BackendInstrumentation(trace_path=path)
    closing = threading.Event()
    before_close: list[int] = []

    def score(number: int) -> None:
        if number == 0:
            time.sleep(0.02)
            closing.set()
            inst.close()
            return
        accepted = 0
        for turn in range(2_000):
            inst.cached("op", f"view {number}", f"{turn % 50}", 8, str)
            accepted += not closing.is_set()
        before_close.append(accepted)

    in_threads(4, score)
    lines = read_events(path)
    assert sum(before_close) <= len(lines) <= 3 * 2_000


def test_every_event_goes_to_the_old_or_the_new_writer(rust: ModuleType, tmp_path: Path) -> None:
    inst = rust.BackendInstrumentation(trace_path=tmp_path / "0.jsonl")

    def score(number: int) -> None:
        for turn in range(300):
            if number == 0 and turn % 30 == 0:
                inst.trace = rust.TraceWriter(tmp_path / f"{turn + 1}.jsonl")
            inst.cached("op", f"view {number}", f"{turn % 50}", 8, str)

    in_threads(4, score)
    inst.close()
    lines = [line for path in tmp_path.iterdir() for line in read_events(path)]
    assert len(lines) == 4 * 300


def test_a_computation_keeps_nobody_else_waiting(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation()
    inst.cached("op", "view", "hit", 8, lambda: "value")
    inside, finish = threading.Event(), threading.Event()

    def slow() -> str:
        inside.set()
        assert finish.wait(LONG)
        return "slow"

    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(inst.cached, "op", "view", "slow", 8, slow)
        assert inside.wait(LONG)
        hit: Any = threads.submit(inst.cached, "op", "view", "hit", 8, never)
        miss: Any = threads.submit(inst.cached_batch, "op", "view", ["new"], 8, list)
        assert hit.result(LONG) == "value"
        assert threads.submit(len, inst.cache).result(LONG) in (1, 2)
        finish.set()
        assert (waiting.result(LONG), miss.result(LONG)) == ("slow", [0])


def test_an_exception_in_one_thread_is_that_threads_alone(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation()

    def score(number: int) -> None:
        def compute() -> int:
            if number % 2:
                raise ValueError(number)
            return number

        for turn in range(50):
            if number % 2:
                with pytest.raises(ValueError, match=str(number)):
                    inst.cached("op", f"view {number}", f"{turn}", 8, compute)
            else:
                assert inst.cached("op", f"view {number}", f"{turn}", 8, compute) == number

    in_threads(8, score)
    assert (inst.stats.cache_misses, inst.stats.forward_passes) == (8 * 50, 4 * 50)

"""Single flight: a key is computed once, however many threads miss it, and nobody hangs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardcache.instrumentation import BackendInstrumentation
from tests.instrumentation.doubles import read_events
from tests.instrumentation.together import LONG, Askers, seen, together
from tests.trace.fork_server import ROOT


def slow(value: Any, calls: list[Any], seconds: float = 0.05) -> Callable[[], Any]:
    def compute() -> Any:
        calls.append(value)
        time.sleep(seconds)
        return value

    return compute


def test_threads_that_miss_one_key_compute_it_once(tmp_path: Path) -> None:
    inst, askers = BackendInstrumentation(trace_path=tmp_path / "trace.jsonl"), Askers()
    calls: list[Any] = []

    def compute() -> str:
        calls.append("value")
        askers.all_wait(8)
        return "value"

    def ask() -> Any:
        askers.come()
        return inst.cached("op", "v", "p", 8, compute)

    assert together([ask] * 8) == ["value"] * 8
    assert calls == ["value"]
    stats = inst.stats
    assert (stats.cache_hits, stats.cache_misses, stats.forward_passes) == (7, 1, 1)
    events = read_events(tmp_path / "trace.jsonl", inst.trace)
    assert sum(event["hit"] for event in events) == 7
    assert sum("waited" in event for event in events) == stats.waits == 7


def test_a_wait_is_no_part_of_the_scoring_time() -> None:
    inst, computing, askers = BackendInstrumentation(), threading.Event(), Askers()
    calls: list[Any] = []

    def compute() -> str:
        computing.set()
        askers.all_wait(1)
        time.sleep(0.1)
        return "value"

    def seconds_of(compute: Callable[[], Any]) -> float:
        began = time.perf_counter()
        inst.cached("op", "v", "p", 8, compute)
        return time.perf_counter() - began

    def later() -> float:
        seen(computing)
        askers.come()
        return seconds_of(slow("other", calls))

    took_s = together([lambda: seconds_of(compute), later])
    assert calls == []
    stats = inst.stats
    assert stats.waits == 1
    assert stats.wait_s >= 0.1
    assert stats.scoring_wall_s >= 0.1
    # Were the wait in both, the two would be longer than all calls were.
    assert stats.wait_s + stats.scoring_wall_s <= sum(took_s)


def test_after_a_failed_computation_the_next_waiter_computes() -> None:
    inst = BackendInstrumentation()
    calls: list[Any] = []

    def compute() -> str:
        calls.append(threading.get_ident())
        time.sleep(0.02)
        if len(calls) < 3:
            raise ValueError("not yet")
        return "value"

    results = together([lambda: inst.cached("op", "v", "p", 8, compute)] * 6)
    failed = [result for result in results if isinstance(result, ValueError)]
    assert len(failed) == 2
    assert [result for result in results if result not in failed] == ["value"] * 4
    assert len(calls) == 3
    assert (inst.stats.failed_computes, inst.stats.forward_passes) == (2, 1)


def test_a_compute_that_asks_for_its_own_key_is_refused() -> None:
    inst = BackendInstrumentation()

    def compute() -> Any:
        return inst.cached("op", "v", "p", 8, lambda: "inner")

    with pytest.raises(RuntimeError, match="the key that it computes"):
        inst.cached("op", "v", "p", 8, compute)

    def compute_misses(_indices: list[int]) -> Any:
        return inst.cached_batch("op", "v", ["p"], 8, lambda indices: ["inner"])

    with pytest.raises(RuntimeError, match="the key that it computes"):
        inst.cached_batch("op", "v", ["p"], 8, compute_misses)
    assert inst.cached("op", "v", "p", 8, lambda: "later") == "later"


def test_a_compute_may_ask_for_other_keys() -> None:
    inst = BackendInstrumentation()

    def compute() -> str:
        return str(inst.cached("op", "v", "inner", 8, lambda: "in")) + "side"

    assert inst.cached("op", "v", "outer", 8, compute) == "inside"


def test_nested_computations_in_a_circle_end() -> None:
    inst = BackendInstrumentation()
    owning = threading.Barrier(2)

    def outer(mine: str, other: str) -> Any:
        def compute() -> str:
            owning.wait(LONG)
            return mine + str(inst.cached("op", "v", other, 8, lambda: other))

        return inst.cached("op", "v", mine, 8, compute)

    results = together([lambda: outer("a", "b"), lambda: outer("b", "a")])
    assert {type(result) for result in results} == {str}
    assert inst.stats.duplicate_computes >= 1


@pytest.mark.parametrize("orders", list(permutations(range(3), 2)), ids=str)
def test_overlapping_batches_compute_each_key_once(orders: tuple[int, int]) -> None:
    prompts = [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["b", "d", "a", "e"]]
    inst, lock = BackendInstrumentation(), threading.Lock()
    computed: list[str] = []

    def score(wanted: list[str]) -> list[Any]:
        def compute_misses(indices: list[int]) -> list[str]:
            with lock:
                computed.extend(wanted[index] for index in indices)
            time.sleep(0.02)
            return [wanted[index].upper() for index in indices]

        return inst.cached_batch("op", "v", wanted, 8, compute_misses)

    mine = [prompts[order] for order in orders] * 3
    results = together([partial(score, wanted) for wanted in mine])
    assert results == [[prompt.upper() for prompt in wanted] for wanted in mine]
    assert sorted(computed) == sorted(set(computed))
    assert inst.stats.forward_passes == inst.stats.cache_misses == len(computed)
    assert inst.stats.total_lookups == 4 * len(mine)


BATCH = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(BATCH, min_size=2, max_size=5))
def test_batches_in_any_order_with_any_overlap_compute_each_key_once(
    batches: list[list[str]],
) -> None:
    inst, computed = BackendInstrumentation(cache_maxsize=None), []

    def score(wanted: list[str]) -> list[str]:
        def compute_misses(indices: list[int]) -> list[str]:
            keys = [wanted[index] for index in indices]
            computed.extend(keys)
            time.sleep(0)
            return [key.upper() for key in keys]

        return inst.cached_batch("op", "v", wanted, 8, compute_misses)

    results = together([partial(score, wanted) for wanted in batches])
    assert results == [[key.upper() for key in wanted] for wanted in batches]
    assert sorted(computed) == sorted({key for wanted in batches for key in wanted})
    assert inst.stats.total_lookups == sum(map(len, batches))


def test_a_batch_computes_once_more_only_what_failed_elsewhere() -> None:
    inst = BackendInstrumentation()
    calls: list[Any] = []
    computing, claimed = threading.Event(), threading.Event()

    def failing() -> str:
        computing.set()
        claimed.wait(LONG)
        time.sleep(0.05)
        raise ValueError("elsewhere")

    def compute_misses(indices: list[int]) -> list[str]:
        claimed.set()
        calls.append(indices)
        return ["value" for _ in indices]

    def batch() -> Any:
        seen(computing)
        return inst.cached_batch("op", "v", ["a", "b", "c"], 8, compute_misses)

    results = together([lambda: inst.cached("op", "v", "b", 8, failing), batch])
    assert isinstance(results[0], ValueError)
    assert results[1] == ["value"] * 3
    assert calls == [[0, 2], [1]]


@pytest.mark.parametrize("values", [["only one"], ValueError("broken")])
def test_a_failed_batch_ends_all_its_flights(values: Any) -> None:
    inst, computing, askers = BackendInstrumentation(), threading.Event(), Askers()

    def broken(_indices: list[int]) -> Any:
        computing.set()
        askers.all_wait(1)
        if isinstance(values, Exception):
            raise values
        return values

    def single() -> Any:
        seen(computing)
        askers.come()
        return inst.cached("op", "v", "b", 8, lambda: "mine")

    results = together([lambda: inst.cached_batch("op", "v", ["a", "b"], 8, broken), single])
    assert isinstance(results[0], RuntimeError | ValueError)
    assert results[1] == "mine"
    assert inst.cached("op", "v", "a", 8, lambda: "again") == "again"


def test_a_wait_that_is_too_long_ends_in_computing_too() -> None:
    inst = BackendInstrumentation(flight_timeout=0.1)
    computing, release = threading.Event(), threading.Event()
    calls: list[Any] = []

    def stuck() -> str:
        computing.set()
        release.wait(LONG)
        return "first"

    def impatient() -> Any:
        seen(computing)
        try:
            return inst.cached("op", "v", "p", 8, slow("second", calls))
        finally:
            release.set()

    results = together([lambda: inst.cached("op", "v", "p", 8, stuck), impatient])
    assert results == ["first", "second"]
    assert inst.stats.duplicate_computes == 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_timeout_must_be_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="flight_timeout must be positive"):
        BackendInstrumentation(flight_timeout=seconds)


INTERRUPTED = """
import threading, time
from forwardcache.instrumentation import BackendInstrumentation
from tests.instrumentation.together import LONG, asleep

inst = BackendInstrumentation()
computing, asking = threading.Event(), threading.Event()

def stuck():
    computing.set()
    asking.wait()
    asleep(threading.main_thread())
    print("waiting", flush=True)
    time.sleep(LONG)

threading.Thread(target=inst.cached, args=("op", "v", "p", 8, stuck), daemon=True).start()
computing.wait()
try:
    asking.set()
    inst.cached("op", "v", "p", 8, lambda: None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_a_wait() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        waiting.send_signal(signal.SIGINT)
        assert waiting.stdout.readline() == "interrupted\n"
        waiting.kill()


def test_a_forked_child_does_not_wait_for_its_parents_threads() -> None:
    inst, computing, release = BackendInstrumentation(), threading.Event(), threading.Event()

    def stuck() -> str:
        computing.set()
        release.wait(LONG)
        return "parent"

    thread = threading.Thread(target=lambda: inst.cached("op", "v", "p", 8, stuck))
    thread.start()
    computing.wait(LONG)
    child = os.fork()
    if child == 0:
        signal.alarm(int(LONG))
        value = inst.cached("op", "v", "p", 8, lambda: "child")
        os._exit(0 if value == "child" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()
    thread.join(LONG)
    assert inst.cached("op", "v", "p", 8, lambda: "never") == "parent"


def test_a_key_that_only_python_can_compare_flies_once() -> None:
    class Prompt(str):
        def __eq__(self, other: object) -> bool:
            return str(self) == str(other)

        __hash__ = str.__hash__

    inst = BackendInstrumentation()
    calls: list[Any] = []
    tasks = [lambda: inst.cached("op", "v", Prompt("p"), 8, slow("value", calls))] * 4
    assert together(tasks) == ["value"] * 4
    assert calls == ["value"]


def test_a_look_alike_cache_flies_once_too() -> None:
    class Plain(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            from forwardcache.instrumentation import _MISS

            return super().get(key, _MISS)

        def put(self, key: Any, value: Any) -> None:
            self[key] = value

    inst = BackendInstrumentation()
    calls: list[Any] = []
    inst.cache = Plain()
    tasks = [lambda: inst.cached("op", "v", "p", 8, slow("value", calls))] * 4
    assert together(tasks) == ["value"] * 4
    assert calls == ["value"]


@pytest.mark.parametrize("batched", [False, True], ids=["cached", "cached_batch"])
def test_what_goes_for_a_value_dies_when_its_flight_has_ended(batched: bool) -> None:
    inst, said = BackendInstrumentation(cache_maxsize=1), []

    class Farewell:
        def __del__(self) -> None:
            # As after an eviction by another thread: the key is not there any more.
            inst.cache.clear()
            said.append(inst.cached("op", "v", "b", 8, lambda: "again"))

    inst.cache.put("old", Farewell())
    if batched:
        assert inst.cached_batch("op", "v", ["a", "b"], 8, lambda at: [f"{i}" for i in at]) == [
            "0",
            "1",
        ]
    else:
        assert inst.cached("op", "v", "b", 8, lambda: "1") == "1"
    assert said == ["again"]

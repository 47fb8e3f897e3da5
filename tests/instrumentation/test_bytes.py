"""Capacity in bytes: what is counted, what has to go, what is never stored."""

import gc
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from forwardcache.instrumentation import _MISS, BackendInstrumentation, ForwardCache
from tests.instrumentation.together import together


def length(_key: Any, value: Any) -> int:
    return len(value)


def test_least_recent_entries_go_while_there_are_too_many_bytes() -> None:
    cache = ForwardCache(None, max_bytes=10, weigher=length)
    for key, value in (("a", b"1234"), ("b", b"1234"), ("c", b"12")):
        cache.put((key,), value)
    cache.get(("a",))
    cache.put(("d",), b"123456")
    assert [key for key in "abcd" if (key,) in cache] == ["a", "d"]
    assert cache.nbytes == 10
    assert cache.evictions == 2


def test_a_too_large_value_is_returned_and_counted_and_never_stored() -> None:
    inst = BackendInstrumentation()
    inst.cache = ForwardCache(None, max_bytes=3, weigher=length)
    for _ in range(2):
        assert inst.cached("op", "view", "prompt", 8, lambda: b"1234") == b"1234"
    assert inst.stats.forward_passes == 2
    assert (len(inst.cache), inst.cache.nbytes, inst.cache.too_large) == (0, 0, 2)


def test_a_too_large_put_drops_the_old_value() -> None:
    cache = ForwardCache(max_bytes=3, weigher=length)
    cache.put(("a",), b"1")
    cache.put(("a",), b"1234")
    assert cache.get(("a",)) is _MISS
    assert cache.nbytes == 0


def test_a_replaced_value_is_weighed_anew() -> None:
    cache = ForwardCache(max_bytes=10, weigher=length)
    cache.put(("a",), b"12345678")
    cache.put(("a",), b"12")
    assert cache.nbytes == 2


def test_entries_and_bytes_both_bound_a_cache() -> None:
    cache = ForwardCache(2, max_bytes=10, weigher=length)
    for key in "abc":
        cache.put((key,), b"1")
    assert len(cache) == 2
    cache.put(("d",), b"1234567890")
    assert len(cache) == 1


@dataclass
class Pair:
    ids: Any
    logprobs: Any


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(1000, np.float32),
        Pair(np.zeros(300, np.int64), np.zeros(400, np.float32)),
        [np.zeros(500, np.float32), {"rest": np.zeros(500, np.float32)}],
        b"x" * 4000,
        "x" * 4000,
    ],
    ids=["array", "dataclass of arrays", "containers of arrays", "bytes", "str"],
)
def test_the_default_weigher_counts_what_a_value_holds(value: Any) -> None:
    cache = ForwardCache(max_bytes=10**6)
    cache.put(("op", "view", "prompt", 8), value)
    assert 4000 <= cache.nbytes <= 4000 + 1500


def test_the_default_weigher_counts_the_prompt() -> None:
    short, long = ForwardCache(max_bytes=10**6), ForwardCache(max_bytes=10**6)
    short.put(("op", "view", "x", 8), None)
    long.put(("op", "view", "x" * 5001, 8), None)
    assert long.nbytes - short.nbytes == 5000


def test_a_value_that_holds_itself_is_weighed_in_finite_time() -> None:
    value: list[Any] = [b"x" * 100]
    value.append(value)
    cache = ForwardCache(max_bytes=10**6)
    cache.put(("a",), value)
    assert 0 < cache.nbytes < 10**6


def test_a_long_list_is_weighed_by_some_of_its_items() -> None:
    cache = ForwardCache(max_bytes=10**9)
    value = [float(number) for number in range(10**6)]
    began = time.thread_time()
    cache.put(("a",), value)
    took = time.thread_time() - began
    began = time.thread_time()
    sum(map(sys.getsizeof, value))
    assert took < (time.thread_time() - began) / 2
    assert cache.nbytes == pytest.approx(10**6 * (8 + sys.getsizeof(0.5)), rel=0.2)


def test_what_can_not_be_weighed_is_returned_and_counted_and_not_stored() -> None:
    class Weightless:
        def __sizeof__(self) -> int:
            raise OSError("no size")

    inst = BackendInstrumentation(cache_max_bytes=10**6)
    value = Weightless()
    assert inst.cached("op", "view", "prompt", 8, lambda: value) is value
    assert (len(inst.cache), inst.cache.too_large) == (0, 1)
    assert inst.stats.forward_passes == 1


def test_what_a_weigher_raises_passes_through_and_nothing_is_stored() -> None:
    def broken(_key: Any, _value: Any) -> int:
        raise OSError("no scales")

    cache = ForwardCache(max_bytes=10, weigher=broken)
    with pytest.raises(OSError, match="no scales"):
        cache.put(("a",), b"1")
    assert len(cache) == 0


def test_a_negative_weight_is_refused() -> None:
    cache = ForwardCache(max_bytes=10, weigher=lambda _key, _value: -1)
    with pytest.raises(ValueError, match="0 or more bytes, got -1"):
        cache.put(("a",), b"1")


@pytest.mark.parametrize("most", [0, -1])
def test_a_limit_in_bytes_that_is_not_positive_is_named_with_its_value(most: int) -> None:
    with pytest.raises(ValueError, match=f"max_bytes must be positive.*{most}"):
        ForwardCache(max_bytes=most)
    with pytest.raises(ValueError, match=f"max_bytes must be positive.*{most}"):
        BackendInstrumentation(cache_max_bytes=most)


def test_an_instrumentation_may_be_bounded_in_bytes_alone() -> None:
    inst = BackendInstrumentation(cache_maxsize=None, cache_max_bytes=10_000)
    for number in range(100):
        inst.cached("op", "view", f"prompt {number}", 8, lambda: b"x" * 1000)
    assert inst.cache.maxsize is None
    assert 5 <= len(inst.cache) <= 8
    assert inst.cache.nbytes <= 10_000


OVERHEAD = """
import gc
from forwardcache.instrumentation import ForwardCache

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

prompts = [f"prompt number {number:08d}" for number in range(200_000)]
cache, value = ForwardCache(None), object()
gc.collect()
before = resident()
for prompt in prompts:
    cache.put(("op", "base", prompt, 256), value)
gc.collect()
print((resident() - before) / len(prompts))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_entry_takes_no_more_than_it_is_counted_with() -> None:
    gc.collect()
    measured = float(subprocess.check_output([sys.executable, "-c", OVERHEAD]))
    cache = ForwardCache(max_bytes=10**6)
    cache.put((), None)
    counted = cache.nbytes - None.__sizeof__()
    assert measured <= counted


def test_a_value_that_another_thread_changes_is_weighed() -> None:
    cache = ForwardCache(None, max_bytes=10**12)
    changing, weighed = dict.fromkeys(map(str, range(5_000)), 0.5), threading.Event()

    def change() -> None:
        number = 0
        while not weighed.is_set():
            changing[f"key {number}"] = 0.5
            del changing[f"key {number}"]
            number += 1

    def weigh() -> None:
        try:
            for number in range(1_500):
                cache.put((number,), changing)
        finally:
            weighed.set()

    assert together([change, weigh]) == [None, None]
    assert (len(cache), cache.too_large) == (1_500, 0)

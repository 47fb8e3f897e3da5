"""What ``ForwardCache`` keeps alive, and for how long: no value or key that it doesn't hold."""

import gc
import sys
import weakref
from types import ModuleType
from typing import Any

import pytest

from tests.instrumentation.doubles import Scripted


class Value:
    """Something that a weak reference can watch."""


@pytest.fixture
def watched(api: ModuleType) -> tuple[Any, Any]:
    """A cache for two, and a weak reference to the value of ``("a",)`` in it."""
    cache, value = api.ForwardCache(2), Value()
    cache.put(("a",), value)
    return cache, weakref.ref(value)


def test_an_evicted_value_is_freed(watched: tuple[Any, Any]) -> None:
    cache, reference = watched
    cache.put(("b",), None)
    assert reference() is not None
    cache.put(("c",), None)
    assert reference() is None


def test_a_replaced_value_is_freed(watched: tuple[Any, Any]) -> None:
    cache, reference = watched
    cache.put(("a",), None)
    assert reference() is None


def test_a_cleared_value_is_freed(watched: tuple[Any, Any]) -> None:
    cache, reference = watched
    cache.clear()
    assert reference() is None


def test_the_values_of_a_dropped_cache_are_freed(api: ModuleType) -> None:
    cache, value = api.ForwardCache(), Value()
    cache.put(("a",), value)
    reference = weakref.ref(value)
    del cache, value
    assert reference() is None


def test_a_value_read_outlives_its_entry(watched: tuple[Any, Any]) -> None:
    cache, reference = watched
    held = cache.get(("a",))
    cache.clear()
    assert reference() is held


def test_an_evicted_key_is_freed(api: ModuleType) -> None:
    cache, field = api.ForwardCache(1), Scripted("a")
    cache.put((field,), None)
    reference = weakref.ref(field)
    del field
    assert reference() is not None
    cache.put(("b",), None)
    assert reference() is None


def test_no_more_values_are_alive_than_the_capacity(api: ModuleType) -> None:
    cache, alive = api.ForwardCache(2), weakref.WeakSet[Value]()
    for number in range(200):
        value = Value()
        alive.add(value)
        cache.put((number,), value)
        del value
        assert len(alive) <= 2


@pytest.mark.parametrize("as_key", [True, False], ids=["key", "value"])
def test_a_cycle_through_the_cache_is_collected(api: ModuleType, as_key: bool) -> None:
    def make_cycle() -> weakref.ref[Scripted]:
        cache, value = api.ForwardCache(), Scripted("a")
        value.on_eq = lambda: cache
        cache.put((value,) if as_key else ("a",), None if as_key else value)
        return weakref.ref(value)

    reference = make_cycle()
    gc.collect()
    assert reference() is None


def test_collecting_garbage_leaves_a_used_cache_as_it_is(api: ModuleType) -> None:
    cache, value = api.ForwardCache(), Scripted("a")
    value.on_eq = lambda: cache
    cache.put((value,), value)
    gc.collect()
    assert cache.get((value,)) is value


@pytest.mark.parametrize("remove", ["evict", "replace", "clear"])
def test_a_destructor_may_use_the_cache(rust: ModuleType, remove: str) -> None:
    cache = rust.ForwardCache(1)
    seen: list[object] = []

    class Farewell:
        def __del__(self) -> None:
            seen.append(cache.get(("a",)))
            cache.put(("last",), len(cache))

    cache.put(("a",), Farewell())
    match remove:
        case "evict":
            cache.put(("b",), None)
        case "replace":
            cache.put(("a",), "new")
        case _:
            cache.clear()
    assert seen == ["new" if remove == "replace" else rust._MISS]
    assert ("last",) in cache
    assert len(cache) == 1


def test_no_call_leaks_a_reference(api: ModuleType) -> None:
    cache, text, value = api.ForwardCache(8), "".join(["a", "shared", "key"]), Value()
    before = sys.getrefcount(text), sys.getrefcount(value)
    for number in range(2_000):
        key = (text, number % 16, value)
        cache.put(key, value)
        cache.get(key)
        cache.peek((text, number % 5, value))
        assert key in cache
        if number % 500 == 0:
            cache.clear()
    del key
    cache.clear()
    assert (sys.getrefcount(text), sys.getrefcount(value)) == before

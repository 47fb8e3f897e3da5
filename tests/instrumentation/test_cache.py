"""``ForwardCache``: exact least-recently-used order, its limit, and what its calls give back.

Not checked here: keys (``test_cache_keys``), lifetimes (``test_cache_lifetimes``), the order under
random sequences (``test_machines``), several threads (``test_threads``), limits in bytes.
"""

import sys
from types import ModuleType
from typing import Any

import pytest


def filled(api: ModuleType, maxsize: int | None, *names: str) -> Any:
    cache = api.ForwardCache(maxsize)
    for name in names:
        cache.put((name,), f"value of {name}")
    return cache


def kept(cache: Any, names: str) -> str:
    return "".join(name for name in names if (name,) in cache)


def test_a_key_never_stored_gives_the_sentinel(api: ModuleType) -> None:
    cache = api.ForwardCache()
    assert cache.get(("absent",)) is api._MISS
    assert cache.peek(("absent",)) is api._MISS


def test_get_and_peek_return_the_object_that_was_put(api: ModuleType) -> None:
    cache, value = api.ForwardCache(), object()
    cache.put(("a", 1), value)
    assert cache.get(("a", 1)) is value
    assert cache.peek(("a", 1)) is value


@pytest.mark.parametrize("value", [None, False, 0, "", [], Ellipsis, NotImplemented])
def test_any_object_is_a_value(api: ModuleType, value: object) -> None:
    cache = api.ForwardCache()
    cache.put(("a",), value)
    assert cache.get(("a",)) is value
    assert ("a",) in cache


def test_put_replaces_and_the_length_stays(api: ModuleType) -> None:
    cache = filled(api, 4, "a", "b")
    cache.put(("a",), "new")
    assert cache.get(("a",)) == "new"
    assert len(cache) == 2


def test_the_least_recently_put_is_evicted(api: ModuleType) -> None:
    cache = filled(api, 2, "a", "b", "c")
    assert len(cache) == 2
    assert kept(cache, "abc") == "bc"


def test_get_makes_an_entry_the_most_recent(api: ModuleType) -> None:
    cache = filled(api, 2, "a", "b")
    cache.get(("a",))
    cache.put(("c",), None)
    assert kept(cache, "abc") == "ac"


def test_replacing_makes_an_entry_the_most_recent(api: ModuleType) -> None:
    cache = filled(api, 2, "a", "b")
    cache.put(("a",), "new")
    cache.put(("c",), None)
    assert kept(cache, "abc") == "ac"


def test_replacing_at_capacity_evicts_nothing(api: ModuleType) -> None:
    cache = filled(api, 2, "a", "b")
    cache.put(("b",), "new")
    assert kept(cache, "ab") == "ab"


@pytest.mark.parametrize("look", ["__contains__", "peek"])
def test_looking_leaves_the_order_as_it_is(api: ModuleType, look: str) -> None:
    cache = filled(api, 2, "a", "b")
    getattr(cache, look)(("a",))
    cache.put(("c",), None)
    assert kept(cache, "abc") == "bc"


def test_a_get_that_misses_leaves_the_order_as_it_is(api: ModuleType) -> None:
    cache = filled(api, 2, "a", "b")
    cache.get(("absent",))
    cache.put(("c",), None)
    assert kept(cache, "abc") == "bc"


def test_the_whole_order_is_that_of_the_last_uses(api: ModuleType) -> None:
    cache = filled(api, 8, *"abcdefgh")
    for name in "dahbgcfe":
        cache.get((name,))
    for evicted, new in zip("dahbgcfe", "ijklmnop", strict=True):
        assert (evicted,) in cache
        cache.put((new,), None)
        assert (evicted,) not in cache


def test_a_capacity_of_one_keeps_the_last(api: ModuleType) -> None:
    cache = filled(api, 1, "a", "b")
    assert kept(cache, "ab") == "b"


def test_maxsize_is_256_unless_given(api: ModuleType) -> None:
    cache = api.ForwardCache()
    assert cache.maxsize == 256
    for number in range(257):
        cache.put((number,), number)
    assert len(cache) == 256
    assert (0,) not in cache


def test_maxsize_none_sets_no_limit(api: ModuleType) -> None:
    cache = api.ForwardCache(maxsize=None)
    for number in range(5_000):
        cache.put((number,), number)
    assert cache.maxsize is None
    assert len(cache) == 5_000


def test_a_huge_maxsize_takes_no_memory_in_advance(api: ModuleType) -> None:
    cache = api.ForwardCache(sys.maxsize)
    cache.put(("a",), 1)
    assert cache.maxsize == sys.maxsize


@pytest.mark.parametrize("maxsize", [0, -1, -1_000_000, -(2**70)])
def test_a_maxsize_that_is_not_positive_is_named_with_its_value(
    api: ModuleType, maxsize: int
) -> None:
    with pytest.raises(ValueError, match=f"maxsize must be positive.*{maxsize}"):
        api.ForwardCache(maxsize)
    with pytest.raises(ValueError, match=f"maxsize must be positive.*{maxsize}"):
        api.BackendInstrumentation(cache_maxsize=maxsize)


def test_clear_removes_every_entry(api: ModuleType) -> None:
    cache = filled(api, 4, "a", "b")
    cache.clear()
    assert len(cache) == 0
    assert cache.get(("a",)) is api._MISS
    cache.put(("a",), 1)
    assert len(cache) == 1

"""``ForwardCache``: exact least-recently-used order, Python's equality, no object kept too long.

Not checked here: the order under random sequences (``test_machines``), several threads
(``test_threads``), limits in bytes.
"""

import gc
import sys
import weakref
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any, NamedTuple

import pytest


class Value:
    """Something that a weak reference can watch."""


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
    cache, value = api.ForwardCache(), Value()
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


# Keys


@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 17, 300])
def test_a_key_is_a_tuple_of_any_length(api: ModuleType, length: int) -> None:
    cache = api.ForwardCache()
    cache.put(tuple(range(length)), length)
    assert cache.get(tuple(range(length))) == length
    assert cache.get((*range(length), 0)) is api._MISS
    assert cache.get(tuple(range(length - 1)) if length else (0,)) is api._MISS


class CaseBlind(str):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


class PlainSubclass(str):
    pass


class Pair(NamedTuple):
    left: object
    right: object


NAN = float("nan")
LONG = "x" * 70_000


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ((1,), (True,)),
        ((1,), (1.0,)),
        ((False,), (0.0,)),
        ((0.0,), (-0.0,)),
        ((2**80,), (float(2**80),)),
        ((1,), (1 + 0j,)),
        (("a", (1, (2,))), ("a", (True, (2.0,)))),
        ((frozenset({1, 2}),), (frozenset({2.0, True}),)),
        ((PlainSubclass("a"),), ("a",)),
        (("a",), (PlainSubclass("a"),)),
        (("abc",), (CaseBlind("ABC"),)),
        ((CaseBlind("abc"),), (CaseBlind("ABC"),)),
        ((NAN,), (NAN,)),
        (Pair("a", 1), ("a", 1)),
        (("\ud800\U0001f600",), ("\ud800" + "\U0001f600",)),
        ((LONG + "é",), (LONG + "é",)),
        ((b"bytes", None, ...), (b"bytes", None, ...)),
        ((int,), (int,)),
    ],
    ids=repr,
)
def test_keys_that_python_calls_equal_are_one_entry(
    api: ModuleType, stored: Hashable, asked: Hashable
) -> None:
    cache = api.ForwardCache()
    cache.put(stored, "first")
    assert asked in cache
    assert cache.get(asked) == "first"
    cache.put(asked, "second")
    assert len(cache) == 1
    assert cache.get(stored) == "second"


class Always:
    """Every instance has one hash, none equals another."""

    def __hash__(self) -> int:
        return 7

    def __repr__(self) -> str:
        return "Always()"


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        (("a",), (b"a",)),
        (("a", "b"), ("b", "a")),
        (("a", "b"), (("a", "b"),)),
        (("ab",), ("a", "b")),
        ((None,), (0,)),
        ((0,), ("0",)),
        ((0,), (2**61 - 1,)),
        ((-1,), (-2,)),
        ((2**53,), (2**53 + 1,)),
        ((float(2**53),), (2**53 + 1,)),
        (("é",), ("e\u0301",)),
        (("\ud800",), ("\udc00",)),
        (("\ud83d\ude00",), ("\U0001f600",)),
        ((float("nan"),), (float("nan"),)),
        ((Always(),), (Always(),)),
        ((CaseBlind("abc"),), ("ABC",)),
        ((1, 2), Pair(2, 1)),
        ((LONG + "a",), (LONG + "b",)),
    ],
    ids=repr,
)
def test_keys_that_python_calls_different_are_two_entries(
    api: ModuleType, stored: Hashable, asked: Hashable
) -> None:
    cache = api.ForwardCache()
    cache.put(stored, "first")
    assert asked not in cache
    assert cache.get(asked) is api._MISS
    cache.put(asked, "second")
    assert (len(cache), cache.get(stored), cache.get(asked)) == (2, "first", "second")


class Reversed(tuple[object, ...]):
    """A tuple that equals its mirror image."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and sorted(map(str, self)) == sorted(map(str, other))

    def __hash__(self) -> int:
        return hash(frozenset(self))


def test_a_tuple_subclass_keeps_its_own_equality(api: ModuleType) -> None:
    cache = api.ForwardCache()
    cache.put(Reversed(("a", "b")), "first")
    assert cache.get(Reversed(("b", "a"))) == "first"


def test_many_keys_of_one_hash_are_told_apart(api: ModuleType) -> None:
    cache, keys = api.ForwardCache(40), [Always() for _ in range(50)]
    for number, key in enumerate(keys):
        cache.put((key,), number)
    assert [cache.get((key,)) for key in keys[10:]] == list(range(10, 50))
    assert all(cache.get((key,)) is api._MISS for key in keys[:10])


@pytest.mark.parametrize("key", [([],), ("a", {}), ((1, [2]),), (bytearray(b"a"),)], ids=repr)
@pytest.mark.parametrize("use", ["get", "peek", "put", "in"])
def test_an_unhashable_key_is_a_type_error(api: ModuleType, use: str, key: Any) -> None:
    cache = api.ForwardCache()
    with pytest.raises(TypeError, match="unhashable"):
        USES[use](cache, key)
    assert len(cache) == 0


USES: dict[str, Callable[[Any, Any], object]] = {
    "get": lambda cache, key: cache.get(key),
    "peek": lambda cache, key: cache.peek(key),
    "put": lambda cache, key: cache.put(key, "value"),
    "in": lambda cache, key: key in cache,
}


class Scripted:
    """A field of a key, equal by name; ``on_eq`` runs at the next comparison of a stored one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_eq: Callable[[], object] = lambda: True

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Scripted):
            return NotImplemented
        on_eq, self.on_eq = self.on_eq, lambda: True
        return on_eq() and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def holding(api: ModuleType, on_eq: Callable[[Any], object], maxsize: int = 2) -> Any:
    """A cache whose entry ``(Scripted("a"),)`` runs ``on_eq(cache)`` when it is compared next."""
    cache, field = api.ForwardCache(maxsize), Scripted("a")
    cache.put((field,), "old")
    field.on_eq = lambda: on_eq(cache)
    return cache


def test_fields_with_their_own_equality_are_compared_by_it(api: ModuleType) -> None:
    cache = api.ForwardCache()
    cache.put((Scripted("a"), 1), "value")
    assert cache.get((Scripted("a"), 1)) == "value"
    assert cache.get((Scripted("b"), 1)) is api._MISS
    assert cache.get((Scripted("a"), 2)) is api._MISS


@pytest.mark.parametrize("use", USES)
def test_an_equality_that_raises_comes_out_unchanged(api: ModuleType, use: str) -> None:
    error = ArithmeticError("not comparable")

    def refuse(_: object) -> object:
        raise error

    cache = holding(api, refuse)
    with pytest.raises(ArithmeticError) as caught:
        USES[use](cache, (Scripted("a"),))
    assert caught.value is error
    assert cache.get((Scripted("a"),)) == "old"
    assert len(cache) == 1


@pytest.mark.parametrize("use", USES)
def test_a_hash_that_raises_comes_out_unchanged(api: ModuleType, use: str) -> None:
    class Unhashed:
        def __hash__(self) -> int:
            raise ArithmeticError("no hash")

    with pytest.raises(ArithmeticError, match="no hash"):
        USES[use](api.ForwardCache(), ("a", Unhashed()))


@pytest.mark.parametrize("inner", USES)
@pytest.mark.parametrize("use", USES)
def test_an_equality_may_use_the_cache(api: ModuleType, use: str, inner: str) -> None:
    used: list[object] = []

    def use_the_cache(cache: Any) -> bool:
        used.append(USES[inner](cache, ("other",)))
        return True

    cache = holding(api, use_the_cache)
    USES[use](cache, (Scripted("a"),))
    assert len(used) == 1
    assert cache.get((Scripted("a"),)) == ("value" if use == "put" else "old")


@pytest.mark.parametrize("use", USES)
def test_an_equality_may_clear_the_cache(rust: ModuleType, use: str) -> None:
    def clear(cache: Any) -> bool:
        cache.clear()
        return True

    cache = holding(rust, clear)
    USES[use](cache, (Scripted("a"),))
    assert cache.get((Scripted("a"),)) == ("value" if use == "put" else rust._MISS)
    assert len(cache) == (use == "put")


@pytest.mark.parametrize("use", USES)
def test_an_equality_may_replace_the_entry_it_is_asked_about(rust: ModuleType, use: str) -> None:
    def replace(cache: Any) -> bool:
        cache.put((Scripted("a"),), "newer")
        return True

    cache = holding(rust, replace)
    USES[use](cache, (Scripted("a"),))
    assert cache.get((Scripted("a"),)) == ("value" if use == "put" else "newer")
    assert len(cache) == 1


@pytest.mark.parametrize("use", USES)
def test_an_equality_may_evict_the_entry_it_is_asked_about(rust: ModuleType, use: str) -> None:
    def fill(cache: Any) -> bool:
        for number in range(5):
            cache.put((number,), number)
        return True

    cache = holding(rust, fill)
    USES[use](cache, (Scripted("a"),))
    assert len(cache) == 2
    assert cache.get((4,)) == 4
    assert cache.get((Scripted("a"),)) == ("value" if use == "put" else rust._MISS)


def test_only_the_truth_of_an_equality_counts(rust: ModuleType) -> None:
    # Not beside the model: a dict may probe one slot twice, and the second answer is True.
    assert holding(rust, lambda _: []).get((Scripted("a"),)) is rust._MISS
    assert holding(rust, lambda _: [1]).get((Scripted("a"),)) == "old"


# Lifetimes


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

"""Keys of ``ForwardCache``: compared as Python compares them, also where comparing runs code.

``__eq__`` and ``__hash__`` of a key may raise, and may use the very cache that asks them.
"""

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from tests.instrumentation.doubles import Scripted


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

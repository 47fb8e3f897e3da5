"""The fast path into ``cached``: five positional arguments, and perhaps ``scope``."""

import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from forwardcache.instrumentation import BackendInstrumentation


class Value:
    """Something that can be seen to go."""


def joined(*parts: str) -> str:
    """A ``str`` that the compiler has not made."""
    return "".join(parts)


def fails() -> Any:
    raise AssertionError("it is in the cache")


def raises() -> Any:
    raise ValueError("no value")


def test_it_looks_like_the_method_that_is_declared() -> None:
    cached = BackendInstrumentation.cached
    assert list(inspect.signature(cached).parameters) == [
        "self", "op", "view_id", "prompt", "top_k", "compute", "scope",
    ]  # fmt: skip
    assert cached.__qualname__ == "BackendInstrumentation.cached"
    assert (cached.__doc__ or "").startswith("Returns the cached value")
    assert "scope: Whatever else decides the value" in (cached.__doc__ or "")


WAYS: dict[str, Callable[..., Any]] = {
    "positional": lambda inst, compute: inst.cached("op", "view", "p", 3, compute, scope=b"s"),
    "scope in pieces": lambda inst, compute: inst.cached(
        "op", "view", "p", 3, compute, **{joined("sco", "pe"): b"s"}
    ),
    "compute by name": lambda inst, compute: inst.cached(
        "op", "view", "p", 3, compute=compute, scope=b"s"
    ),
    "all by name": lambda inst, compute: inst.cached(
        scope=b"s", compute=compute, top_k=3, prompt="p", view_id="view", op="op"
    ),
    "by the class": lambda inst, compute: BackendInstrumentation.cached(
        inst, "op", "view", "p", 3, compute, scope=b"s"
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
def test_every_way_in_finds_the_same(way: Callable[..., Any], again: Callable[..., Any]) -> None:
    inst, value = BackendInstrumentation(), Value()
    assert way(inst, lambda: value) is value
    assert again(inst, fails) is value
    assert inst.cached("op", "view", "p", 3, lambda: 4) == 4, "the scope is a part of the key"


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((), {}, "missing 5 required positional arguments: 'op', 'view_id', 'prompt'"),
        (("op", "view", "p", 3), {}, "missing 1 required positional argument: 'compute'"),
        (("op", "view", "p", 3, fails, b""), {}, "takes 5 positional arguments but 6 were given"),
        (("op", "view", "p", 3, fails), {"scop": b""}, "unexpected keyword argument 'scop'"),
        (("op", "view", "p", 3, fails), {"op": "op"}, "multiple values for argument 'op'"),
        (("op", "view", "p", 3, fails), {"scope": "s"}, "scope must be bytes, not <class 'str'>"),
        (
            ("op", "view", 3, 3, fails),
            {},
            "prompt must be str or a tuple of str, not <class 'int'>",
        ),
        (("op", "view", [], 3, fails), {}, "unhashable type: 'list'"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(
    arguments: tuple[Any, ...], named: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words.replace("(", r"\(")):
        BackendInstrumentation().cached(*arguments, **named)


def test_a_call_from_c_may_have_no_arguments() -> None:
    cached: Any = BackendInstrumentation().cached
    with pytest.raises(TypeError, match="missing 5 required positional arguments"):
        next(iter(cached, None))


def test_it_is_for_instances_alone() -> None:
    cached: Any = BackendInstrumentation.cached
    with pytest.raises(TypeError, match="doesn't apply to a 'int' object"):
        cached(3, "op", "view", "p", 3, fails)


def test_a_subclass_may_have_a_way_of_its_own() -> None:
    class Counting(BackendInstrumentation):
        calls = 0

        def cached(self, *arguments: Any, **named: Any) -> Any:
            self.calls += 1
            return super().cached(*arguments, **named)

    inst = Counting()
    assert [inst.cached("op", "view", "p", 3, lambda: 4) for _ in range(3)] == [4, 4, 4]
    assert (inst.calls, inst.stats.cache_hits) == (3, 2)


# What follows holds before anything else of the package is called: that would let go of what a
# call has left behind.


def test_what_had_to_go_is_gone_when_the_call_returns() -> None:
    inst = BackendInstrumentation(cache_maxsize=1)
    values = [weakref.ref(inst.cached("op", "view", str(number), 3, Value)) for number in range(5)]
    assert [value() is None for value in values] == [True] * 4 + [False]


def test_what_was_invalidated_is_gone_when_it_is_asked_for() -> None:
    inst = BackendInstrumentation()
    first = weakref.ref(inst.cached("op", "view", "p", 3, Value))
    inst.invalidate("other")
    second = weakref.ref(inst.cached("op", "view", "p", 3, fails))
    assert first() is second() is not None
    inst.invalidate("view")
    inst.cached("op", "view", "p", 3, Value)
    assert first() is None


def test_a_failed_call_leaves_nothing_behind() -> None:
    inst = BackendInstrumentation()
    prompt = joined("a prompt that ", "nobody else holds")
    before = sys.getrefcount(prompt)
    for _ in range(10):
        with pytest.raises(ValueError, match="no value"):
            inst.cached("op", "view", prompt, 3, raises)
    assert sys.getrefcount(prompt) == before


@pytest.mark.parametrize("field", ["view_id", "scope"])
def test_names_are_held_no_longer_than_they_are_remembered(field: str) -> None:
    inst = BackendInstrumentation()
    inst.cached("op", "view", "p", 3, lambda: 4, scope=b"scope")
    views = [joined("vi", "ew") if field == "view_id" else "view" for _ in range(500)]
    scopes = [bytes(bytearray(b"scope")) if field == "scope" else b"scope" for _ in range(500)]
    names: list[object] = [*views] if field == "view_id" else [*scopes]
    before = [sys.getrefcount(name) for name in names]
    for view, scope in zip(views, scopes, strict=True):
        inst.cached("op", view, "p", 3, fails, scope=scope)
    after = [sys.getrefcount(name) for name in names]
    held = sum(was < now for was, now in zip(before, after, strict=True))
    # Sixteen rows of the hashes and sixteen of the statistics remember the last names.
    assert held <= 32

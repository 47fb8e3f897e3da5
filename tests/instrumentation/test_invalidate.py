"""``invalidate``: those entries go, and nothing that was begun before comes back."""

import gc
import threading
import weakref
from typing import Any

import pytest

from forwardcache import BackendInstrumentation
from forwardcache.instrumentation import _MISS
from tests.instrumentation.doubles import DictCache, never
from tests.instrumentation.together import asleep

VIEWS = ("base", "ft")
OPS = ("dist", "roll")


def filled() -> Any:
    inst = BackendInstrumentation()
    for op in OPS:
        for view in VIEWS:
            inst.cached_batch(op, view, ["a", "b"], 8, lambda indices: indices)
    return inst


def left(inst: Any) -> set[tuple[str, str]]:
    return {(op, view) for op in OPS for view in VIEWS if (op, view, "a", 8) in inst.cache}


@pytest.mark.parametrize(
    ("arguments", "dropped"),
    [
        ({}, {(op, view) for op in OPS for view in VIEWS}),
        ({"view_id": "ft"}, {("dist", "ft"), ("roll", "ft")}),
        ({"op": "roll"}, {("roll", "base"), ("roll", "ft")}),
        ({"view_id": "ft", "op": "roll"}, {("roll", "ft")}),
        ({"view_id": "null_7"}, set()),
    ],
)
def test_those_entries_go_and_no_others(
    arguments: dict[str, str], dropped: set[tuple[str, str]]
) -> None:
    inst = filled()
    everything = left(inst)
    assert inst.invalidate(**arguments) == 2 * len(dropped)
    assert left(inst) == everything - dropped
    assert inst.invalidate(**arguments) == 0
    assert len(inst.cache) == 2 * (4 - len(dropped))


def test_the_view_may_be_given_by_position() -> None:
    assert filled().invalidate("ft") == 4


def test_entries_with_a_scope_go_too_and_foreign_keys_stay() -> None:
    inst = BackendInstrumentation()
    inst.cached("op", "ft", "a", 8, lambda: 1, scope=b"weights")
    inst.cache.put(("ft",), 1)
    inst.cache.put((1, 2, 3, 4), 1)
    assert inst.invalidate("ft") == 1
    assert len(inst.cache) == 2
    assert inst.invalidate() == 2


def test_a_computation_begun_before_is_not_put_back() -> None:
    inst = BackendInstrumentation()

    def compute() -> str:
        inst.invalidate("ft")
        return "old"

    assert inst.cached("op", "ft", "a", 8, compute) == "old"
    assert inst.cached("op", "ft", "a", 8, lambda: "new") == "new"
    assert inst.cached("op", "ft", "a", 8, never) == "new"


def test_a_batch_begun_before_is_not_put_back() -> None:
    inst = BackendInstrumentation()

    def compute(indices: list[int]) -> list[str]:
        inst.invalidate(op="op")
        return ["old"] * len(indices)

    assert inst.cached_batch("op", "ft", ["a", "b"], 8, compute) == ["old", "old"]
    assert len(inst.cache) == 0


def test_a_computation_of_another_view_is_kept() -> None:
    inst = BackendInstrumentation()

    def compute() -> str:
        inst.invalidate("base")
        return "value"

    inst.cached("op", "ft", "a", 8, compute)
    assert inst.cached("op", "ft", "a", 8, never) == "value"


def test_many_invalidations_during_a_computation_keep_it_out() -> None:
    inst = BackendInstrumentation()

    def compute() -> str:
        inst.invalidate("ft")
        for number in range(1000):
            inst.invalidate(f"null_{number}")
        return "old"

    inst.cached("op", "ft", "a", 8, compute)
    assert len(inst.cache) == 0


def test_whoever_comes_later_does_not_join_the_older_flight() -> None:
    inst = BackendInstrumentation()
    begun, go_on = threading.Event(), threading.Event()
    values: list[str] = []

    def old() -> str:
        begun.set()
        go_on.wait()
        return "old"

    def ask() -> None:
        values.append(inst.cached("op", "ft", "a", 8, old))

    owner = threading.Thread(target=ask)
    owner.start()
    begun.wait()
    inst.invalidate("ft")
    assert inst.cached("op", "ft", "a", 8, lambda: "new") == "new"
    go_on.set()
    owner.join()
    assert values == ["old"]
    assert inst.cached("op", "ft", "a", 8, never) == "new"


def test_whoever_waited_before_gets_the_older_value() -> None:
    inst = BackendInstrumentation()
    begun, waiting, go_on = threading.Event(), threading.Event(), threading.Event()
    values: list[str] = []

    def old() -> str:
        begun.set()
        go_on.wait()
        return "old"

    def wait() -> None:
        waiting.set()
        values.append(inst.cached("op", "ft", "a", 8, never))

    threads = [threading.Thread(target=inst.cached, args=("op", "ft", "a", 8, old))]
    threads[0].start()
    begun.wait()
    threads.append(threading.Thread(target=wait))
    threads[1].start()
    waiting.wait()
    asleep(threads[1])
    inst.invalidate("ft")
    go_on.set()
    for thread in threads:
        thread.join()
    assert values == ["old"]
    assert len(inst.cache) == 0


def test_what_is_dropped_dies_before_the_call_returns() -> None:
    class Value:
        pass

    inst = BackendInstrumentation()
    value = Value()
    reference = weakref.ref(value)
    inst.cache.put(("op", "ft", "a", 8), value)
    del value
    inst.invalidate("ft")
    assert reference() is None


def test_a_destructor_may_use_the_cache() -> None:
    inst = BackendInstrumentation()

    class Farewell:
        def __del__(self) -> None:
            inst.cached("op", "base", "bye", 8, lambda: "bye")
            inst.invalidate("null")

    inst.cached("op", "ft", "a", 8, Farewell)
    assert inst.invalidate("ft") == 1
    gc.collect()
    assert inst.cached("op", "base", "bye", 8, never) == "bye"


def test_names_with_an_equality_of_their_own_are_asked() -> None:
    class Name:
        def __hash__(self) -> int:
            return hash("ft")

        def __eq__(self, other: object) -> bool:
            assert inst.cache.get(("no", "such", "key", 1)) is _MISS, "the cache is free"
            return other == "ft"

        def __str__(self) -> str:
            return "ft"

    inst: Any = BackendInstrumentation()
    inst.cache.put(("op", Name(), "a", 8), 1)
    inst.cache.put(("op", "base", "a", 8), 1)
    assert inst.invalidate("ft") == 1
    assert len(inst.cache) == 1


def test_a_look_alike_does_it_itself_or_says_that_it_can_not() -> None:
    class Invalidating(DictCache):
        def invalidate(self, view_id: str | None = None, *, op: str | None = None) -> int:
            self.asked = (view_id, op)
            return 3

    inst: Any = BackendInstrumentation()
    inst.cache = cache = Invalidating(_MISS)
    assert inst.invalidate("ft", op="op") == 3
    assert cache.asked == ("ft", "op")
    inst.cache = DictCache(_MISS)
    with pytest.raises(TypeError, match="invalidate"):
        inst.invalidate("ft")


def test_names_are_text() -> None:
    with pytest.raises(TypeError, match="view_id"):
        BackendInstrumentation().invalidate(7)  # type: ignore[arg-type]

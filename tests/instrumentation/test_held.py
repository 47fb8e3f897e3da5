"""Claims: by default a value counts for the memory that keeping it takes, to a factor of two, for
whatever a user returns: views, containers of any class, objects without and with ``__dict__``,
arrays of objects. Tensors: tests/hf/test_held_tensors.py.
"""

import array
import ctypes
import functools
import mmap
import os
import subprocess
import sys
import tracemalloc
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardcache.instrumentation import ForwardCache

FACTOR = 2
"""What the documentation states."""

SMALL_BYTES = 1000
"""An entry's own, and the fields of the few objects around the memory in question."""

MEGABYTES = 4_000_000


def counted(*values: Any) -> int:
    cache = ForwardCache(None, max_bytes=10**12)
    for number, value in enumerate(values):
        cache.put((number,), value)
    return cache.nbytes


def traced(make: Callable[[], Any]) -> tuple[Any, int]:
    """What ``make`` gives, and the bytes that are then allocated more than before."""
    make()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = make()
        return value, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def large() -> Any:
    return np.arange(MEGABYTES // 8, dtype=np.float64)


@dataclass
class Plain:
    first: Any
    second: Any = None


@dataclass(slots=True)
class Slotted:
    first: Any
    nbytes: int = 3


class Named(NamedTuple):
    first: Any
    nbytes: int = 3


class Bare:
    def __init__(self, first: Any) -> None:
        self.first = first


class Claims(Bare):
    @property
    def nbytes(self) -> int:
        return 8


class OfDict(dict[Any, Any]):
    pass


class OfArray(np.ndarray[Any, Any]):
    kept: Any


def with_attribute() -> Any:
    found = np.zeros(1).view(OfArray)
    found.kept = large()
    return found


def in_closure() -> Any:
    kept = large()
    return lambda: kept


def chain(length: int) -> Any:
    found: Any = None
    for number in range(length):
        found = [found, number + 0.5]
    return found


VIEWS: dict[str, Callable[[], Any]] = {
    "slice": lambda: large()[:8],
    "slice of a slice": lambda: large()[1:][::2][:3],
    "reshaped and transposed": lambda: large().reshape(1000, -1)[::7].T[:2],
    "field of a structured array": lambda: large().view([("x", "f8")])["x"][:2],
    "record array": lambda: large().view([("x", "f8")]).view(np.recarray)[:2],
    "class of one's own": lambda: large().view(OfArray)[:2],
    "attribute of an array": with_attribute,
    "memoryview": lambda: memoryview(bytes(MEGABYTES))[:8],
    "array over bytes": lambda: np.frombuffer(bytes(MEGABYTES), np.uint8)[:8],
    "array over a memoryview": lambda: np.frombuffer(memoryview(bytearray(MEGABYTES)), "u1")[:8],
    "array over ctypes": lambda: np.ctypeslib.as_array((ctypes.c_char * MEGABYTES)())[:8],
    "array over a mapping": lambda: np.frombuffer(mmap.mmap(-1, MEGABYTES), np.uint8)[:8],
    "slice of objects": lambda: np.array([large(), None], dtype=object)[1:],
}
WHOLE: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(MEGABYTES),
    "array.array": lambda: array.array("d", bytes(MEGABYTES)),
    "ctypes": ctypes.c_char * MEGABYTES,
    "between numbers": lambda: [1, large(), 2, 3],
    "the 138th of 200": lambda: [large() if place == 137 else place for place in range(200)],
    "every other": lambda: [part for row in large().reshape(8, -1) for part in (0, row.copy())],
    "tuple": lambda: (0.5, large()),
    "set": lambda: {bytes(MEGABYTES), 1},
    "frozenset": lambda: frozenset({bytes(MEGABYTES), 1}),
    "key of a dict": lambda: {bytes(MEGABYTES): 1},
    "defaultdict": lambda: defaultdict(list, a=[large()]),
    "OrderedDict": lambda: OrderedDict(a=large()),
    "dict of one's own": lambda: OfDict(a=large()),
    "deque": lambda: deque([1, large()]),
    "mapping proxy": lambda: types.MappingProxyType({"a": large()}),
    "named tuple with a field nbytes": lambda: Named(large()),
    "dataclass": lambda: Plain(1, large()),
    "slots with a field nbytes": lambda: Slotted(large()),
    "object": lambda: Bare(large()),
    "object that claims less": lambda: Claims(large()),
    "namespace": lambda: types.SimpleNamespace(first=large()),
    "closure": in_closure,
    "partial": lambda: functools.partial(print, large()),
    "exception": lambda: ValueError(large()),
    "iterator": lambda: iter([large()]),
    "array of objects": lambda: np.array([large(), None], dtype=object),
    "fields of objects": lambda: np.array([(large(), 1)], dtype=[("x", object), ("y", int)]),
    "pandas": lambda: pd.DataFrame({"a": large()}),
    "rows of pandas": lambda: pd.DataFrame({"a": large()}).iloc[:3],
    "series of pandas": lambda: pd.Series(large()),
    "polars": lambda: pl.DataFrame({"a": large()}),
    "series of polars": lambda: pl.Series(large()),
    "arrow": lambda: pa.table({"a": large()}),
    "slice of arrow": lambda: pa.table({"a": large()}).slice(0, 3),
    "buffer of arrow": lambda: pa.py_buffer(bytes(MEGABYTES)),
}


@pytest.mark.parametrize("make", [*VIEWS.values(), *WHOLE.values()], ids=[*VIEWS, *WHOLE])
def test_a_large_array_counts_wherever_a_value_keeps_it(make: Callable[[], Any]) -> None:
    held = counted(make())
    assert MEGABYTES <= held <= MEGABYTES * 1.1 + 10 * SMALL_BYTES


@pytest.mark.parametrize(
    "value",
    [
        np.broadcast_to(np.float64(1), (10_000_000,)),
        np.lib.stride_tricks.sliding_window_view(np.zeros(50), 40),
        Slotted(None, nbytes=10**12),
        Named(None, nbytes=10**12),
        [sys, np, Plain, print, large],
    ],
    ids=["broadcast", "windows", "slot called nbytes", "field called nbytes", "names of modules"],
)
def test_what_a_value_does_not_keep_does_not_count(value: Any) -> None:
    assert counted(value) <= 3 * SMALL_BYTES


MANY: dict[str, Callable[[], Any]] = {
    "floats": lambda: [number + 0.5 for number in range(30_000)],
    "one float": lambda: [0.5] * 30_000,
    "ints": lambda: [number << 20 for number in range(30_000)],
    "large ints": lambda: [number << 2_000 for number in range(1, 3_000)],
    "texts": lambda: [str(number) * 3 for number in range(30_000)],
    "texts beyond Latin": lambda: [f"語{number}" for number in range(30_000)],
    "short and long": lambda: [bytes(number % 100 * 50) for number in range(3_000)],
    "set": lambda: {number << 20 for number in range(30_000)},
    "dict": lambda: {str(number): number + 0.5 for number in range(30_000)},
    "Counter": lambda: Counter({number: number << 20 for number in range(1_000, 31_000)}),
    "deque": lambda: deque(number + 0.5 for number in range(30_000)),
    "lists": lambda: [[number + 0.5, number + 0.25] for number in range(10_000)],
    "dicts": lambda: [{"a": number + 0.5, "b": str(number)} for number in range(10_000)],
    "dataclasses": lambda: [Plain(number + 0.5, str(number)) for number in range(10_000)],
    "slots": lambda: [Slotted(number + 0.5, number << 20) for number in range(10_000)],
    "named tuples": lambda: [Named(number + 0.5, number << 20) for number in range(10_000)],
    "objects": lambda: [Bare(number + 0.5) for number in range(10_000)],
    "small arrays": lambda: [np.full(8, number) for number in range(5_000)],
    "array of texts": lambda: np.array([str(number) for number in range(10_000)], dtype=object),
    "chain": lambda: chain(20_000),
}


@pytest.mark.thread_unsafe(reason="counts the memory of all threads")
@pytest.mark.parametrize("make", MANY.values(), ids=MANY.keys())
def test_many_small_objects_count_for_what_they_take(make: Callable[[], Any]) -> None:
    value, held = traced(make)
    assert held / FACTOR <= counted(value) <= held * FACTOR + SMALL_BYTES


PARTS = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(0, 3).map(lambda power: b"x" * 30**power),
    st.text(max_size=40),
    st.integers(0, 3).map(lambda power: np.zeros(20**power)),
    st.integers(0, 3).map(lambda power: np.zeros(20**power)[:1]),
)
VALUES = st.recursive(
    PARTS,
    lambda part: st.one_of(
        st.lists(part, max_size=6),
        st.lists(part, max_size=6).map(tuple),
        st.lists(part, max_size=6).map(deque),
        st.dictionaries(st.text(max_size=5), part, max_size=6),
        part.map(Bare),
        part.map(Slotted),
        st.builds(Plain, part, part),
    ),
    max_leaves=40,
)


@pytest.mark.thread_unsafe(reason="counts the memory of all threads")
@settings(max_examples=50)
@given(VALUES)
def test_any_nesting_counts_for_what_it_takes(value: Any) -> None:
    copied, held = traced(lambda: fresh(value))
    assert held / FACTOR - SMALL_BYTES <= counted(copied) <= held * FACTOR + SMALL_BYTES


def fresh(value: Any) -> Any:
    """The same value in memory of its own."""
    if isinstance(value, np.ndarray):
        whole = value if value.base is None else value.base
        found: Any = whole.copy()[: len(value)]
    elif isinstance(value, dict):
        found = {key: fresh(part) for key, part in value.items()}
    elif isinstance(value, list | tuple | deque):
        found = type(value)(map(fresh, value))
    elif isinstance(value, Plain):
        found = Plain(fresh(value.first), fresh(value.second))
    elif isinstance(value, Bare | Slotted):
        found = type(value)(fresh(value.first))
    else:
        found = bytes(bytearray(value)) if isinstance(value, bytes) else value
    return found


def test_what_is_shared_counts_once_a_value_and_in_each_value() -> None:
    shared = large()
    assert counted([shared, shared, shared[:3], shared[5:9]]) < MEGABYTES + 3 * SMALL_BYTES
    assert counted(shared[:3], shared[5:9]) > 2 * MEGABYTES


@dataclass
class Node:
    others: list["Node"] = field(default_factory=list)


def test_rings_and_depth_end() -> None:
    first, second = Node(), Node()
    first.others, second.others = [second, first], [first] * 50
    assert counted(first) < 3 * SMALL_BYTES
    assert counted(chain(300_000)) > 300_000 * 70


BOUNDED = """
import gc, sys
from forwardcache.instrumentation import ForwardCache
from tests.instrumentation.test_held import VIEWS, WHOLE

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def fill(make):
    cache = ForwardCache(None, max_bytes=2**20)
    for number in range(5):
        cache.put((number,), make())
    gc.collect()
    return cache

for name, make in {**VIEWS, **WHOLE}.items():
    fill(make)
    before = resident()
    cache = fill(make)
    grown = resident() - before
    if len(cache) or grown > 2 * 4_000_000:
        print(name, len(cache), grown)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_kind_of_value_takes_a_cache_beyond_its_bound() -> None:
    # glibc raises this threshold as it goes, and then keeps what was freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", BOUNDED]
    assert subprocess.check_output(command, text=True, env=environment) == ""

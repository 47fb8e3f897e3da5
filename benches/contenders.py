"""Who is asked: forwardcache, the plain-Python model, and other caches in their natural use.

Every contender gives a loop that looks prompts up, one after the other, in a cache of its own, with
the same key ``(op, view_id, prompt, top_k)``. The other caches do that inline, without a function
around them, which is to their advantage; they neither count nor trace.
"""

import functools
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benches.cases import OP, TOP_K, VIEW_ID
from forwardcache import _core
from forwardcache.instrumentation import BackendInstrumentation
from tests.instrumentation import plain

Loop = Callable[[Sequence[str]], object]
"""Looks every prompt up once."""

MakeLoop = Callable[[int], Loop]
"""Makes a loop over a fresh cache of so many entries."""

OURS, PLAIN, LRU_CACHE = "forwardcache", "plain-Python model", "functools.lru_cache"

VALUE, ABSENT = object(), object()


def compute() -> object:
    return VALUE


def compute_batch(indices: list[int]) -> list[object]:
    return [VALUE] * len(indices)


# Instrumentations


def instrumented(inst: Any) -> Loop:
    def loop(prompts: Sequence[str]) -> None:
        cached = inst.cached
        for prompt in prompts:
            cached(OP, VIEW_ID, prompt, TOP_K, compute)

    return loop


def instrumented_batch(inst: Any) -> Loop:
    def loop(prompts: Sequence[str]) -> list[Any]:
        values: list[Any] = inst.cached_batch(OP, VIEW_ID, prompts, TOP_K, compute_batch)
        return values

    return loop


INSTRUMENTATIONS: dict[str, Callable[..., Any]] = {
    OURS: BackendInstrumentation,
    PLAIN: plain.BackendInstrumentation,
}


# Other caches


def lru_cache(capacity: int) -> Loop:
    @functools.lru_cache(capacity)
    def score(op: str, view_id: str, prompt: str, top_k: int) -> object:
        return VALUE

    def loop(prompts: Sequence[str]) -> None:
        for prompt in prompts:
            score(OP, VIEW_ID, prompt, TOP_K)

    return loop


def mapping(get: Callable[[Any, Any], Any], store: Callable[[Any, Any], Any]) -> Loop:
    def loop(prompts: Sequence[str]) -> None:
        for prompt in prompts:
            key = (OP, VIEW_ID, prompt, TOP_K)
            if get(key, ABSENT) is ABSENT:
                store(key, compute())

    return loop


def cachebox(capacity: int) -> Loop:
    from cachebox import LRUCache

    cache: Any = LRUCache(capacity)
    return mapping(cache.get, cache.insert)


def moka_py(capacity: int) -> Loop:
    from moka_py import Moka

    cache: Any = Moka(capacity, policy="lru")
    return mapping(cache.get, cache.set)


def lru_dict(capacity: int) -> Loop:
    from lru import LRU

    cache: Any = LRU(capacity)
    return mapping(cache.get, cache.__setitem__)


def cachetools(capacity: int) -> Loop:
    from cachetools import LRUCache

    cache: Any = LRUCache(capacity)

    def loop(prompts: Sequence[str]) -> None:
        for prompt in prompts:
            key = (OP, VIEW_ID, prompt, TOP_K)
            try:
                cache[key]
            except KeyError:
                cache[key] = compute()

    return loop


def theine(capacity: int) -> Loop:
    from theine import Cache

    cache: Any = Cache(capacity)

    def loop(prompts: Sequence[str]) -> None:
        get, store = cache.get, cache.set
        for prompt in prompts:
            key = (OP, VIEW_ID, prompt, TOP_K)
            _value, found = get(key)
            if not found:
                store(key, compute())

    return loop


PEERS: dict[str, MakeLoop] = {
    LRU_CACHE: lru_cache,
    "cachebox": cachebox,
    "moka-py": moka_py,
    "theine": theine,
    "cachetools": cachetools,
    "lru-dict": lru_dict,
}


def single(name: str, capacity: int) -> Loop:
    """One lookup a prompt."""
    if make := INSTRUMENTATIONS.get(name):
        return instrumented(make(cache_maxsize=capacity))
    return PEERS[name](capacity)


def batch(name: str, capacity: int) -> Loop:
    """All prompts at once, where there is a way to ask so; else one after the other."""
    if make := INSTRUMENTATIONS.get(name):
        return instrumented_batch(make(cache_maxsize=capacity))
    return PEERS[name](capacity)


def traced(name: str, path: Path) -> Loop:
    """One lookup a prompt, with a line in a trace for each."""
    return instrumented(INSTRUMENTATIONS[name](trace_path=path))


# Floors


def no_call(prompts: Sequence[str]) -> None:
    for _prompt in prompts:
        pass


def builtin_call(prompts: Sequence[str]) -> None:
    index = operator.index
    for _prompt in prompts:
        index(TOP_K)


def empty_native_call(prompts: Sequence[str]) -> None:
    empty = _core._empty_call
    for prompt in prompts:
        empty(OP, VIEW_ID, prompt, TOP_K, compute)


FLOORS: dict[str, Loop] = {
    "the loop alone": no_call,
    "a builtin of one argument (`operator.index`)": builtin_call,
    "a native call that takes the five arguments and does nothing": empty_native_call,
}


def line_write(path: Path) -> Loop:
    """What the system asks for one line, whoever formats it."""
    line = b"x" * 239 + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def loop(prompts: Sequence[str]) -> None:
        write = os.write
        for _prompt in prompts:
            write(file, line)

    return loop

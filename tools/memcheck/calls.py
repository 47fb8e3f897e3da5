"""What the core does, in short: ``python -m tools.memcheck.calls ROUNDS``.

Each function is one way through the core, and leaves nothing behind: run twice as often, no more
memory may be lost. Objects are made anew each time, so that none is the interpreter's own.
"""

import copy
import gc
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from forwardcache import _core
from forwardcache.instrumentation import BackendInstrumentation, ForwardCache, prompt_hash
from forwardcache.observe import read_trace


class Value:
    """A value that can stand in a cycle."""

    held: Any = None


class Moody(str):
    """A prompt that only Python can compare, and that calls the cache meanwhile."""

    __slots__ = ("inst",)
    __hash__ = str.__hash__
    inst: BackendInstrumentation

    def __eq__(self, other: object) -> bool:
        self.inst.cached("op", "view", "inside", 8, Value)
        return str(self) == str(other)


class Broken(Exception):
    """What a computation raises."""


def fail(*_: object) -> Any:
    """Raises, whatever it is asked."""
    raise Broken


def text(*parts: object) -> str:
    """A ``str`` that was not there before."""
    return " ".join(map(str, parts))


def hits_misses_and_evictions() -> None:
    """Single calls, more keys than places."""
    inst = BackendInstrumentation(cache_maxsize=7)
    for number in range(60):
        prompt: Any = text("prompt", number % 11)
        if number % 5 == 0:
            prompt = (prompt, text("ä€😀", number % 3))
        scope = bytes([number % 2])
        for _ in range(2):
            inst.cached(text("op"), text("view", number % 2), prompt, 300 + number, Value)
            inst.cached("op", "view", prompt, 8, Value, scope=scope)
    assert len(inst.cache) == 7
    assert inst.stats.to_dict()["evictions"] == inst.cache.evictions
    inst.report()
    inst.metrics()
    inst.stats.calls()
    assert copy.copy(inst.stats) == inst.stats.snapshot()


def batches() -> None:
    """Batches with hits, repeats and misses, and some that fail."""
    inst = BackendInstrumentation(cache_maxsize=20)
    for start in range(0, 40, 5):
        prompts = [text("prompt", start + step % 9) for step in range(12)]
        inst.cached_batch("op", "view", prompts, 8, lambda indices: [Value() for _ in indices])
        with suppress(Broken):
            inst.cached_batch("op", "other", prompts, 8, fail)
        with suppress(RuntimeError):
            inst.cached_batch("op", "third", prompts, 8, lambda _: [1])


def bytes_and_weighers() -> None:
    """Caches bounded in bytes, whose entries are weighed."""
    bounded = ForwardCache(None, max_bytes=4_000)
    for number in range(30):
        bounded.put(("op", text("view"), text(number), 8), {text("a"): [bytes(number), Value()]})
    bounded.put("too large", bytes(10_000))
    weighed = ForwardCache(5, max_bytes=100, weigher=lambda key, value: 7)
    for number in range(9):
        weighed.put((text(number),), Value())
    with suppress(Broken):
        ForwardCache(5, max_bytes=100, weigher=fail).put("key", Value())


def exceptions() -> None:
    """Calls that are refused, or whose computation raises."""
    inst: Any = BackendInstrumentation()
    unhashable: Any = []
    for call in (
        partial(inst.cached, "op", "view", text("raises"), 8, fail),
        partial(inst.cached, "op", "view", 7, 8, Value),
        partial(inst.cached, "op", "view", text("scope"), 8, Value, scope="text"),
        partial(inst.cached, "op", [], text("not hashable"), 8, Value),
        partial(inst.cached_batch, "op", "view", text("one str"), 8, list),
        partial(inst.cached_batch, "op", "view", [b"bytes"], 8, list),
        partial(ForwardCache, -1),
        partial(ForwardCache().get, unhashable),
        partial(BackendInstrumentation, flight_timeout=-1.0),
    ):
        with suppress(Broken, TypeError, ValueError):
            call()
    compute: Any = coroutine
    with suppress(TypeError):
        inst.cached("op", "view", text("coroutine"), 8, compute)


async def coroutine() -> None:
    """Must not be cached."""


def equality_by_python() -> None:
    """Keys that only Python can compare."""
    inst = BackendInstrumentation(cache_maxsize=5)
    for number in range(20):
        prompt = Moody(text("prompt", number % 6))
        prompt.inst = inst
        inst.cached("op", "view", prompt, 8, Value)
        inst.cached("op", "view", str(prompt), 8, Value)
    inst.invalidate("view", op=text("op"))


def invalidations_and_cycles() -> None:
    """Values that hold what holds them."""
    inst: Any = BackendInstrumentation()

    def compute() -> Value:
        value = Value()
        value.held = inst
        return value

    for number in range(70):
        view = text("view", number % 4)
        inst.cached(text("op", number % 3), view, text(number), 8, compute)
        if number % 3 == 0:
            inst.invalidate(view)
    inst.cache.put(inst, inst)
    inst.cache = ForwardCache(3)
    inst.cache.clear()
    inst.cache.put("self", inst)


class Plain:
    """A cache, a trace and statistics in plain Python."""

    cache_hits = cache_misses = forward_passes = 0
    batches_sent = batched_prompts = max_batch_size = 0
    scoring_wall_s = 0.0

    def __init__(self) -> None:
        self.kept = dict[Any, Any]()
        self.events = list[Any]()

    def get(self, key: Any) -> Any:
        """The value, or the sentinel."""
        return self.kept.get(key, _core._MISS)

    def put(self, key: Any, value: Any) -> None:
        """Keeps a value."""
        self.kept[key] = value

    def write(self, event: Any) -> None:
        """Keeps an event."""
        self.events.append(event)


def parts_replaced() -> None:
    """An instrumentation whose parts were replaced by plain Python objects."""
    inst: Any = BackendInstrumentation()
    inst.cache = inst.trace = inst.stats = plain = Plain()
    for number in range(8):
        inst.cached("op", "view", text("prompt", number % 4), 8, Value)
        inst.cached_batch("op", "view", [text("prompt", number)] * 2, 8, list)
    assert plain.cache_hits
    assert plain.events
    assert plain.kept


def traces() -> None:
    """A trace that is written, read and recovered."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        with BackendInstrumentation(cache_maxsize=4, trace_path=path, trace_salt=b"salt") as inst:
            inst.set_current_probe(text("probe"))
            for number in range(25):
                with inst.probe(text("probe", number)):
                    inst.cached(
                        "op", text("view", number % 2), text("prompt", number % 6), 8, Value
                    )
                with suppress(Broken):
                    inst.cached("op", "view", text("raises", number), 8, fail)
            inst.cached_batch("op", "view", [text(n, "\ud800") for n in range(9)], 8, list)
        assert len(list(read_trace(path))) == 59
        assert _core.recover_trace(path)["journals"] == 0
        _core._parse_trace_lines([b"no line", path.read_bytes().splitlines()[0]], Value)
        prompt_hash((text("prompt"), text("completion")))


def flights() -> None:
    """Threads that wait for one another's computations, some of which fail."""
    inst, started = BackendInstrumentation(cache_maxsize=3), threading.Barrier(4)

    def compute(fails: bool) -> Value:
        for _ in range(200):
            text("slow")
        return fail() if fails else Value()

    def score(number: int) -> None:
        started.wait()
        for turn in range(12):
            with suppress(Broken):
                inst.cached(
                    "op", "view", text("prompt", turn), 8, partial(compute, turn % 5 == number)
                )
            prompts = [text("prompt", turn + step) for step in range(4)]
            inst.cached_batch(
                "op", "view", prompts, 8, lambda indices: [compute(False) for _ in indices]
            )

    threads = [threading.Thread(target=score, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inst.stats.total_lookups >= 4 * 12 * 5


CALLS: list[Callable[[], None]] = [
    hits_misses_and_evictions,
    batches,
    bytes_and_weighers,
    exceptions,
    equality_by_python,
    invalidations_and_cycles,
    parts_replaced,
    traces,
    flights,
]


def main() -> None:
    """Runs everything as often as the command line says."""
    for _ in range(int(sys.argv[1])):
        for call in CALLS:
            call()
            gc.collect()


if __name__ == "__main__":
    main()

"""``BackendInstrumentation.cached``: computed once, counted, written down, never another's value.

Not checked here: batches, replaced parts, probes, threads (a file of each).
"""

import asyncio
import gc
import resource
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.instrumentation.doubles import RecordingTrace, never, raising, read_events
from tests.instrumentation.texts import COLLIDING

CALL = {"op": "op", "view_id": "view", "prompt": "prompt", "top_k": 8}


@pytest.fixture
def inst(api: ModuleType) -> Any:
    """An instrumentation that keeps its events."""
    inst = api.BackendInstrumentation()
    inst.trace = RecordingTrace()
    return inst


def counts(inst: Any) -> tuple[int, int, int]:
    stats = inst.stats
    return stats.cache_hits, stats.cache_misses, stats.forward_passes


def test_a_miss_computes_once_and_a_hit_gives_the_same_object(inst: Any) -> None:
    value = object()
    assert inst.cached("op", "view", "prompt", 8, lambda: value) is value
    assert inst.cached("op", "view", "prompt", 8, never) is value


def test_none_is_cached_like_any_value(inst: Any) -> None:
    assert inst.cached(**CALL, compute=lambda: None) is None
    assert inst.cached(**CALL, compute=never) is None


def test_a_miss_and_a_hit_are_counted(inst: Any) -> None:
    inst.cached(**CALL, compute=lambda: 1)
    assert counts(inst) == (0, 1, 1)
    inst.cached(**CALL, compute=never)
    assert counts(inst) == (1, 1, 1)
    assert (inst.stats.batches_sent, inst.stats.batched_prompts) == (0, 0)


def test_the_seconds_of_misses_and_hits_are_added(inst: Any) -> None:
    began = time.perf_counter()
    inst.cached(**CALL, compute=lambda: time.sleep(0.02))
    after_miss = inst.stats.scoring_wall_s
    assert 0.02 <= after_miss <= time.perf_counter() - began
    inst.cached(**CALL, compute=never)
    assert after_miss < inst.stats.scoring_wall_s <= time.perf_counter() - began


def test_a_miss_and_a_hit_leave_one_event_each(inst: Any) -> None:
    inst.cached(**CALL, compute=lambda: 1)
    assert inst.trace.hits == [False]
    inst.cached(**CALL, compute=never)
    assert inst.trace.hits == [False, True]
    miss, hit = inst.trace.events
    for event in (miss, hit):
        assert (event.op, event.view_id, event.top_k) == ("op", "view", 8)
    assert miss.prompt_hash == hit.prompt_hash


# Computations that fail


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), KeyError("no"), RuntimeError("no"), StopIteration("no"), MemoryError()],
    ids=repr,
)
def test_an_exception_passes_through_unchanged(inst: Any, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        inst.cached(**CALL, compute=raising(error))
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
def test_what_is_no_exception_passes_through_unchanged(inst: Any, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        inst.cached(**CALL, compute=raising(error))
    assert caught.value is error
    assert len(inst.cache) == 0


def test_after_a_failure_a_later_call_computes_again(inst: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        inst.cached(**CALL, compute=raising(ValueError("no")))
    assert len(inst.cache) == 0
    assert inst.cached(**CALL, compute=lambda: "value") == "value"
    assert inst.cached(**CALL, compute=never) == "value"


def test_a_failure_counts_as_a_miss_without_a_pass(inst: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        inst.cached(**CALL, compute=raising(ValueError("no")))
    assert counts(inst) == (0, 1, 0)
    assert inst.stats.scoring_wall_s > 0
    assert inst.trace.hits == [False]


def test_a_failure_keeps_no_reference_to_what_it_saw(inst: Any) -> None:
    class Local:
        pass

    def fail_with_a_local() -> weakref.ref[Local]:
        local = Local()

        def compute() -> None:
            raise ValueError(local)

        with pytest.raises(ValueError, match="Local"):
            inst.cached(**CALL, compute=compute)
        return weakref.ref(local)

    reference = fail_with_a_local()
    gc.collect()
    assert reference() is None


def test_a_coroutine_is_refused_and_not_stored(inst: Any) -> None:
    async def compute() -> str:
        return "value"

    with pytest.raises(TypeError, match="coroutine"):
        inst.cached(**CALL, compute=compute)
    assert len(inst.cache) == 0
    assert counts(inst) == (0, 1, 0)


def test_awaited_values_are_cached_from_a_coroutine(inst: Any) -> None:
    async def score() -> object:
        value = await asyncio.sleep(0, "value")
        return inst.cached(**CALL, compute=lambda: value)

    assert asyncio.run(score()) == "value"


# Computations that use the cache


def test_a_computation_may_use_the_cache_for_other_keys(inst: Any) -> None:
    def compute() -> str:
        inner: str = inst.cached("op", "view", "inner", 8, lambda: "inner value")
        batch = inst.cached_batch("op", "view", ["inner", "third"], 8, lambda misses: misses)
        return f"{inner}, {batch}"

    assert inst.cached("op", "view", "outer", 8, compute) == "inner value, ['inner value', 1]"
    assert counts(inst) == (1, 3, 3)
    assert len(inst.cache) == 3


def test_a_computation_may_clear_the_cache(inst: Any) -> None:
    inst.cached("op", "view", "other", 8, lambda: "other")

    def compute() -> str:
        inst.cache.clear()
        return "value"

    assert inst.cached(**CALL, compute=compute) == "value"
    assert inst.cached(**CALL, compute=never) == "value"
    assert len(inst.cache) == 1


# Keys


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"op": "a"}, {"op": "b"}),
        ({"view_id": "a"}, {"view_id": "b"}),
        ({"prompt": "a"}, {"prompt": "b"}),
        ({"top_k": 1}, {"top_k": 2}),
        ({"op": "a", "view_id": "b"}, {"op": "b", "view_id": "a"}),
        ({"op": "ab", "view_id": "c"}, {"op": "a", "view_id": "bc"}),
        ({"scope": b"a"}, {"scope": b"b"}),
        ({"scope": b"a"}, {}),
        ({"prompt": "a"}, {"prompt": ("a",)}),
        ({"prompt": ("a", "b")}, {"prompt": ("b", "a")}),
        ({"prompt": ("a\0b", "c")}, {"prompt": ("a", "b\0c")}),
        ({"prompt": ("a", "b")}, {"prompt": "a\0b"}),
        ({"prompt": ("a", "")}, {"prompt": ("a",)}),
        ({"prompt": "a\ud800"}, {"prompt": "a\ud801"}),
        ({"prompt": "\ud83d\ude00"}, {"prompt": "\U0001f600"}),
        ({"prompt": "x" * 100_000 + "a"}, {"prompt": "x" * 100_000 + "b"}),
        *[({"prompt": one}, {"prompt": other}) for one, other in COLLIDING],
    ],
)
def test_different_calls_are_two_entries(
    inst: Any, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert inst.cached(**{**CALL, **one}, compute=lambda: "one") == "one"
    assert inst.cached(**{**CALL, **other}, compute=lambda: "other") == "other"
    assert inst.cached(**{**CALL, **one}, compute=never) == "one"
    assert inst.cached(**{**CALL, **other}, compute=never) == "other"
    assert len(inst.cache) == 2


class Text(str):
    pass


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"top_k": 1}, {"top_k": True}),
        ({"top_k": 256}, {"top_k": 256.0}),
        ({"prompt": "a"}, {"prompt": Text("a")}),
        ({"prompt": "".join(["lo", "ng"])}, {"prompt": "".join(["l", "ong"])}),
        ({"prompt": ("a", "b")}, {"prompt": tuple("ab")}),
        ({"prompt": "a\ud800é"}, {"prompt": "a" + "\ud800" + "é"}),
        ({"scope": b""}, {}),
        ({"scope": b"ab"}, {"scope": bytes([97, 98])}),
    ],
)
def test_equal_calls_are_one_entry(inst: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert inst.cached(**{**CALL, **one}, compute=lambda: "value") == "value"
    assert inst.cached(**{**CALL, **other}, compute=never) == "value"


@pytest.mark.parametrize("pair", COLLIDING)
def test_prompts_of_one_hash_prefix_are_never_served_each_others_value(
    inst: Any, pair: tuple[str, str]
) -> None:
    for prompt in pair:
        inst.cached("op", "view", prompt, 8, lambda prompt=prompt: prompt)
    first, second = inst.trace.events
    assert first.prompt_hash == second.prompt_hash
    assert inst.cached_batch("op", "view", list(pair), 8, raising(AssertionError())) == list(pair)


def test_the_hash_of_a_prompt_of_several_fields_is_that_of_its_fields(
    api: ModuleType, inst: Any
) -> None:
    inst.cached("op", "view", ("prompt", "completion"), 8, lambda: 1)
    assert inst.trace.events[0].prompt_hash == api.prompt_hash("prompt\0completion")


def test_the_scope_is_not_in_the_trace(api: ModuleType, tmp_path: Path) -> None:
    with api.BackendInstrumentation(trace_path=tmp_path / "trace.jsonl") as inst:
        inst.cached(**CALL, compute=lambda: 1, scope=b"secret-scope")
    [line] = read_events(tmp_path / "trace.jsonl")
    assert "secret-scope" not in repr(line)


# The instrumentation itself


def test_the_cache_keeps_256_values_unless_told(api: ModuleType) -> None:
    assert api.BackendInstrumentation().cache.maxsize == 256
    assert api.BackendInstrumentation(cache_maxsize=None).cache.maxsize is None


def test_an_evicted_value_is_computed_again(api: ModuleType) -> None:
    inst = api.BackendInstrumentation(cache_maxsize=2)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        inst.cached("op", "view", prompt, 8, lambda: "value")
    assert counts(inst) == (2, 4, 4)


def test_an_instrumentation_takes_keywords_alone(api: ModuleType) -> None:
    with pytest.raises(TypeError):
        api.BackendInstrumentation(256)


def test_a_fresh_instrumentation_has_counted_nothing(api: ModuleType) -> None:
    inst = api.BackendInstrumentation()
    assert inst.stats == api.BackendStats()
    assert isinstance(inst.cache, api.ForwardCache)
    assert isinstance(inst.trace, api.TraceWriter)
    assert inst.stats is inst.stats


def test_close_is_idempotent_and_scoring_goes_on_without_a_trace(
    api: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    inst = api.BackendInstrumentation(trace_path=path)
    inst.cached(**CALL, compute=lambda: "value")
    inst.close()
    inst.close()
    assert inst.cached(**CALL, compute=never) == "value"
    assert inst.cached("op", "view", "other", 8, lambda: 2) == 2
    assert counts(inst) == (1, 2, 2)
    assert len(read_events(path)) == 1


def test_leaving_the_with_closes_and_lets_exceptions_through(
    api: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    inst = api.BackendInstrumentation(trace_path=path)

    def score() -> None:
        with inst as entered:
            assert entered is inst
            inst.cached(**CALL, compute=raising(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        score()
    inst.cached(**CALL, compute=lambda: "value")
    assert len(read_events(path)) == 1


def test_a_cycle_through_an_instrumentation_is_collected(api: ModuleType) -> None:
    class Backend:
        def __init__(self) -> None:
            self.inst = api.BackendInstrumentation()
            self.inst.cached(**CALL, compute=lambda: self)

    reference = weakref.ref(Backend())
    gc.collect()
    assert reference() is None


def mixed_calls(inst: Any, prompts: list[str], rounds: int) -> None:
    """Hits, misses, evictions, batches with repeats, and failures."""

    def fail() -> None:
        raise ValueError("no")

    for number in range(rounds):
        prompt = prompts[number % len(prompts)]
        inst.cached("op", "view", prompt, number % 3, lambda: prompts)
        assert inst.cached("op", "view", prompt, number % 3, never, scope=b"") is prompts
        if number % 16 == 0:
            inst.cached_batch("op", "view", prompts, 1, lambda misses: [prompts] * len(misses))
            inst.cached_batch("op", "view", [prompt, prompt], 5, lambda misses: [prompts])
        if number % 64 == 0:
            with suppress(ValueError):
                inst.cached("op", "view", prompt, 7, fail)


def test_no_call_leaks_a_reference(api: ModuleType, tmp_path: Path) -> None:
    prompts = [f"prompt {number} é" for number in range(20)]
    inst = api.BackendInstrumentation(cache_maxsize=8, trace_path=tmp_path / "trace.jsonl")
    before = [sys.getrefcount(prompt) for prompt in prompts], sys.getrefcount(prompts)
    mixed_calls(inst, prompts, 1_000)
    inst.cache.clear()
    gc.collect()
    assert ([sys.getrefcount(prompt) for prompt in prompts], sys.getrefcount(prompts)) == before


def test_a_hundred_thousand_calls_do_not_grow_the_process(rust: ModuleType) -> None:
    prompts = [f"prompt {number} é " * 50 for number in range(20)]
    inst = rust.BackendInstrumentation(cache_maxsize=8)
    mixed_calls(inst, prompts, 5_000)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mixed_calls(inst, prompts, 40_000)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 8 * 1024

"""``BackendInstrumentation.cached_batch``: every prompt looked up, the misses computed in one call.

Not checked here: replaced parts, threads, digests in the lines (``test_trace_lines``).
"""

import time
from types import ModuleType
from typing import Any

import pytest

from tests.instrumentation.doubles import (
    Computes,
    RecordingTrace,
    never,
    never_batch,
    raising,
)


@pytest.fixture
def inst(api: ModuleType) -> Any:
    """An instrumentation that keeps its events."""
    inst = api.BackendInstrumentation()
    inst.trace = RecordingTrace()
    return inst


def warmed(inst: Any, *prompts: str) -> Any:
    """``inst`` with prompts in its cache, and nothing counted."""
    inst.cached_batch("op", "view", list(prompts), 8, Computes(list(prompts)))
    inst.stats = type(inst.stats)()
    inst.trace = RecordingTrace()
    return inst


def batch_counts(inst: Any) -> dict[str, int]:
    fields = ("cache_hits", "cache_misses", "forward_passes")
    sent = ("batches_sent", "batched_prompts", "max_batch_size")
    return {name: getattr(inst.stats, name) for name in fields + sent if getattr(inst.stats, name)}


def hashes(api: ModuleType, *prompts: str) -> list[str]:
    return [api.prompt_hash(prompt) for prompt in prompts]


def test_misses_are_computed_in_one_call_with_ascending_indices(inst: Any) -> None:
    prompts = ["a", "b", "c", "d"]
    compute = Computes(prompts)
    warmed(inst, "b")
    values = inst.cached_batch("op", "view", prompts, 8, compute)
    assert values == ["value-of-a", "value-of-b", "value-of-c", "value-of-d"]
    assert compute.asked == [[0, 2, 3]]


def test_the_indices_are_a_list_of_int(inst: Any) -> None:
    def compute(indices: object) -> list[str]:
        assert type(indices) is list
        assert [type(index) for index in indices] == [int, int]
        return ["a", "b"]

    assert inst.cached_batch("op", "view", ("a", "b"), 8, compute) == ["a", "b"]


def test_no_prompts_give_no_values_and_no_call(inst: Any) -> None:
    assert inst.cached_batch("op", "view", [], 8, never_batch) == []
    assert batch_counts(inst) == {}
    assert inst.trace.events == []


def test_a_batch_of_hits_computes_nothing_and_sends_nothing(inst: Any) -> None:
    warmed(inst, "a", "b")
    values = inst.cached_batch("op", "view", ["b", "a", "b"], 8, never_batch)
    assert values == ["value-of-b", "value-of-a", "value-of-b"]
    assert batch_counts(inst) == {"cache_hits": 3}
    assert inst.trace.hits == [True, True, True]


def test_values_are_the_objects_that_were_computed(inst: Any) -> None:
    computed = [object(), None]
    assert inst.cached_batch("op", "view", ["a", "b"], 8, lambda indices: computed) == computed
    again = inst.cached_batch("op", "view", ["b", "a"], 8, never_batch)
    assert again[0] is None
    assert again[1] is computed[0]


def test_single_and_batched_calls_share_their_entries(inst: Any) -> None:
    inst.cached("op", "view", "a", 8, lambda: "single")
    assert inst.cached_batch("op", "view", ["a", "b"], 8, lambda indices: ["batched"]) == [
        "single",
        "batched",
    ]
    assert inst.cached("op", "view", "b", 8, never) == "batched"
    assert inst.cached("op", "view", "b", 9, lambda: "another top_k") == "another top_k"


def test_prompts_of_several_fields_and_scopes_are_keys_of_their_own(inst: Any) -> None:
    prompts = [("a\0b", "c"), ("a", "b\0c"), "a"]
    assert inst.cached_batch("op", "view", prompts, 8, lambda misses: misses) == [0, 1, 2]
    assert inst.cached_batch(
        "op", "view", prompts, 8, lambda misses: [9, 9, 9], scope=b"weights"
    ) == [9, 9, 9]
    assert inst.cached_batch("op", "view", prompts[::-1], 8, never_batch) == [2, 1, 0]
    assert inst.cached("op", "view", "a", 8, never, scope=b"weights") == 9


# Statistics


def test_a_batch_counts_what_it_sends(inst: Any) -> None:
    warmed(inst, "a")
    inst.cached_batch("op", "view", ["a", "b", "c"], 8, lambda misses: misses)
    assert batch_counts(inst) == {
        "cache_hits": 1,
        "cache_misses": 2,
        "forward_passes": 2,
        "batches_sent": 1,
        "batched_prompts": 2,
        "max_batch_size": 2,
    }


def test_the_largest_batch_is_remembered(inst: Any) -> None:
    for prompts in (["a"], ["b", "c", "d"], ["e", "f"]):
        inst.cached_batch("op", "view", prompts, 8, lambda misses: misses)
    assert inst.stats.max_batch_size == 3
    assert (inst.stats.batches_sent, inst.stats.batched_prompts) == (3, 6)
    assert inst.stats.avg_batch_size == 2.0


def test_the_seconds_of_the_computation_are_added_once(inst: Any) -> None:
    def compute(misses: list[int]) -> list[int]:
        time.sleep(0.05)
        return misses

    began = time.perf_counter()
    inst.cached_batch("op", "view", ["a", "b", "c", "d"], 8, compute)
    assert 0.05 <= inst.stats.scoring_wall_s <= time.perf_counter() - began


# Events


def test_events_are_the_hits_then_the_misses_in_prompt_order(api: ModuleType, inst: Any) -> None:
    warmed(inst, "b", "d")
    inst.cached_batch("op", "view", ["a", "b", "c", "d"], 8, lambda misses: misses)
    events = inst.trace.events
    assert [event.prompt_hash for event in events] == hashes(api, "b", "d", "a", "c")
    assert inst.trace.hits == [True, True, False, False]
    assert {(event.op, event.view_id, event.top_k) for event in events} == {("op", "view", 8)}


def test_a_miss_took_its_share_of_the_batch(inst: Any) -> None:
    took_ms = []

    def compute(misses: list[int]) -> list[int]:
        began = time.perf_counter()
        time.sleep(0.04)
        took_ms.append((time.perf_counter() - began) * 1e3)
        return misses

    began = time.perf_counter()
    inst.cached_batch("op", "view", ["a", "b", "c", "d"], 8, compute)
    all_ms = (time.perf_counter() - began) * 1e3
    [share] = {event.wall_ms for event in inst.trace.events}
    assert took_ms[0] / 4 <= share <= all_ms / 4


# A prompt that stands twice


def test_a_prompt_that_stands_twice_is_computed_once(inst: Any) -> None:
    prompts = ["a", "b", "a", "c", "b", "a"]
    compute = Computes(prompts)
    values = inst.cached_batch("op", "view", prompts, 8, compute)
    assert values == [f"value-of-{prompt}" for prompt in prompts]
    assert compute.asked == [[0, 1, 3]]
    assert values[0] is values[2] is values[5]


def test_a_second_position_is_a_hit_whose_event_comes_after_the_miss(
    api: ModuleType, inst: Any
) -> None:
    warmed(inst, "h")
    inst.cached_batch("op", "view", ["a", "a", "h", "b", "a"], 8, lambda misses: misses)
    assert batch_counts(inst) == {
        "cache_hits": 3,
        "cache_misses": 2,
        "forward_passes": 2,
        "batches_sent": 1,
        "batched_prompts": 2,
        "max_batch_size": 2,
    }
    seen = [event.prompt_hash for event in inst.trace.events]
    assert seen == hashes(api, "h", "a", "b", "a", "a")
    assert inst.trace.hits == [True, False, False, True, True]


def test_a_second_position_is_served_even_if_its_entry_is_gone(api: ModuleType) -> None:
    inst = api.BackendInstrumentation(cache_maxsize=1)
    prompts = ["a", "b", "a"]
    assert inst.cached_batch("op", "view", prompts, 8, Computes(prompts)) == [
        "value-of-a",
        "value-of-b",
        "value-of-a",
    ]
    assert len(inst.cache) == 1


class CaseBlind(str):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


def test_repeats_are_found_by_python_equality(inst: Any) -> None:
    prompts = [CaseBlind("a"), CaseBlind("A"), CaseBlind("b")]
    compute = Computes(prompts)
    values = inst.cached_batch("op", "view", prompts, 8, compute)
    assert compute.asked == [[0, 2]]
    assert values == ["value-of-a", "value-of-a", "value-of-b"]


# Computations that fail


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3], [1] * 11], ids=len)
def test_a_result_of_the_wrong_length_is_a_backend_bug(inst: Any, values: list[int]) -> None:
    warmed(inst, "h")
    with pytest.raises(RuntimeError, match="backend bug") as caught:
        inst.cached_batch("op", "view", ["h", "a", "b"], 8, lambda misses: values)
    numbers = {word for word in str(caught.value).replace(":", " ").split() if word.isdigit()}
    assert numbers == {str(len(values)), "2"}
    assert len(inst.cache) == 1
    assert inst.stats.cache_misses == 2
    assert inst.stats.forward_passes == 0


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_exception_passes_through_and_nothing_is_stored(inst: Any, error: BaseException) -> None:
    warmed(inst, "h")
    with pytest.raises(type(error)) as caught:
        inst.cached_batch("op", "view", ["a", "h", "b"], 8, raising(error))
    assert caught.value is error
    assert len(inst.cache) == 1
    counted = batch_counts(inst)
    assert (counted["cache_hits"], counted["cache_misses"]) == (1, 2)
    assert "forward_passes" not in counted


def test_after_a_failure_a_later_batch_computes_again(inst: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        inst.cached_batch("op", "view", ["a", "b"], 8, raising(ValueError("no")))
    compute = Computes(["a", "b"])
    assert inst.cached_batch("op", "view", ["a", "b"], 8, compute) == ["value-of-a", "value-of-b"]
    assert compute.asked == [[0, 1]]


def test_coroutines_are_refused_and_not_stored(inst: Any) -> None:
    async def compute(misses: list[int]) -> list[int]:
        return misses

    async def one() -> int:
        return 1

    with pytest.raises(TypeError, match="coroutine"):
        inst.cached_batch("op", "view", ["a"], 8, compute)
    with pytest.raises(TypeError, match="coroutine"):
        inst.cached_batch("op", "view", ["a"], 8, lambda misses: [one()])
    assert len(inst.cache) == 0


def test_a_single_str_is_not_taken_for_its_characters(inst: Any) -> None:
    with pytest.raises(TypeError, match="str"):
        inst.cached_batch("op", "view", "abc", 8, lambda misses: misses)


# Computations that use the cache


def test_a_computation_may_use_the_cache_for_other_keys(inst: Any) -> None:
    def compute(misses: list[int]) -> list[object]:
        inner = inst.cached_batch("op", "other", ["x", "y"], 8, lambda indices: ["x", "y"])
        return [inner[index] for index in misses]

    assert inst.cached_batch("op", "view", ["a", "b"], 8, compute) == ["x", "y"]
    assert inst.cached("op", "other", "x", 8, never) == "x"
    assert inst.stats.forward_passes == inst.stats.cache_misses == 4


def test_a_batch_larger_than_the_cache_gives_every_value(api: ModuleType) -> None:
    inst, prompts = api.BackendInstrumentation(cache_maxsize=2), list("abcde")
    assert inst.cached_batch("op", "view", prompts, 8, lambda misses: misses) == [0, 1, 2, 3, 4]
    assert len(inst.cache) == 2
    assert inst.cached_batch("op", "view", ["d", "e"], 8, never_batch) == [3, 4]


def test_hits_of_a_batch_are_made_the_most_recent(api: ModuleType) -> None:
    inst = api.BackendInstrumentation(cache_maxsize=3)
    inst.cached_batch("op", "view", ["a", "b", "c"], 8, lambda misses: misses)
    inst.cached_batch("op", "view", ["a"], 8, never_batch)
    inst.cached_batch("op", "view", ["d"], 8, lambda misses: misses)
    kept = [prompt for prompt in "abcd" if ("op", "view", prompt, 8) in inst.cache]
    assert kept == ["a", "c", "d"]


def test_prompts_may_be_any_iterable(inst: Any) -> None:
    values = inst.cached_batch("op", "view", (p for p in "ab"), 8, tuple)
    assert values == [0, 1]

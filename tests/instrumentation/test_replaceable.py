"""``inst.cache``, ``inst.trace``, ``inst.stats`` assigned from outside, also plain objects."""

import dataclasses
import gc
import os
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.instrumentation.doubles import (
    FIELDS,
    Counters,
    DictCache,
    RecordingTrace,
    never,
    never_batch,
    raising,
    read_events,
)


@pytest.fixture
def inst(api: ModuleType) -> Any:
    return api.BackendInstrumentation()


@pytest.mark.parametrize("part", ["cache", "trace", "stats"])
def test_a_part_is_the_object_that_was_assigned(inst: Any, part: str) -> None:
    for assigned in (object(), getattr(inst, part)):
        setattr(inst, part, assigned)
        assert getattr(inst, part) is assigned


# The cache


def test_an_assigned_cache_is_asked_with_the_key_tuple(api: ModuleType, inst: Any) -> None:
    inst.cache = cache = DictCache(api._MISS)
    assert inst.cached("op", "view", "prompt", 8, lambda: "value") == "value"
    key = ("op", "view", "prompt", 8)
    assert cache.calls == [("get", key), ("put", key)]
    assert type(cache.calls[0][1]) is tuple
    assert cache.values == {key: "value"}
    assert inst.cached("op", "view", "prompt", 8, never) == "value"
    assert (inst.stats.cache_hits, inst.stats.cache_misses) == (1, 1)


def test_an_assigned_cache_gets_the_scope_appended(api: ModuleType, inst: Any) -> None:
    inst.cache = cache = DictCache(api._MISS)
    inst.cached("op", "view", ("a", "b"), 8, lambda: 1, scope=b"weights")
    inst.cached("op", "view", ("a", "b"), 8, lambda: 2, scope=b"")
    inst.cached_batch("op", "view", ["c"], 8, lambda misses: [3], scope=b"weights")
    assert cache.values == {
        ("op", "view", ("a", "b"), 8, b"weights"): 1,
        ("op", "view", ("a", "b"), 8): 2,
        ("op", "view", "c", 8, b"weights"): 3,
    }


def test_an_assigned_cache_serves_batches(api: ModuleType, inst: Any) -> None:
    inst.cache = DictCache(api._MISS)
    prompts = ["a", "b", "a"]
    assert inst.cached_batch("op", "view", prompts, 8, lambda misses: misses) == [0, 1, 0]
    assert inst.cached_batch("op", "view", prompts, 8, never_batch) == [0, 1, 0]
    assert (inst.stats.cache_hits, inst.stats.cache_misses) == (4, 2)


def test_a_value_of_none_in_an_assigned_cache_is_a_hit(api: ModuleType, inst: Any) -> None:
    inst.cache = DictCache(api._MISS)
    inst.cached("op", "view", "prompt", 8, lambda: None)
    assert inst.cached("op", "view", "prompt", 8, never) is None


def test_nothing_is_put_into_an_assigned_cache_when_a_computation_fails(
    api: ModuleType, inst: Any
) -> None:
    inst.cache = cache = DictCache(api._MISS)
    with pytest.raises(ValueError, match="no"):
        inst.cached("op", "view", "prompt", 8, raising(ValueError("no")))
    assert cache.values == {}


def test_an_assigned_cache_starts_with_what_it_holds(api: ModuleType, inst: Any) -> None:
    inst.cached("op", "view", "prompt", 8, lambda: "old")
    filled = api.ForwardCache()
    filled.put(("op", "view", "prompt", 8), "filled from outside")
    inst.cache = filled
    assert inst.cached("op", "view", "prompt", 8, never) == "filled from outside"


def test_the_cache_holds_keys_that_can_be_asked_from_outside(inst: Any) -> None:
    inst.cached("op", "view", ("a", "b"), 8, lambda: "value", scope=b"weights")
    assert inst.cache.get(("op", "view", ("a", "b"), 8, b"weights")) == "value"
    assert ("op", "view", ("a", "b"), 8) not in inst.cache


def test_two_instrumentations_may_share_a_cache(api: ModuleType, inst: Any) -> None:
    other = api.BackendInstrumentation()
    other.cache = inst.cache
    inst.cached("op", "view", "prompt", 8, lambda: "shared")
    assert other.cached("op", "view", "prompt", 8, never) == "shared"
    assert (other.stats.cache_hits, other.stats.cache_misses) == (1, 0)


def test_a_subclass_of_the_cache_is_used_through_its_methods(api: ModuleType, inst: Any) -> None:
    class Refusing(api.ForwardCache):  # type: ignore[misc,name-defined]
        def put(self, key: object, value: object) -> None:
            self.refused = key, value

    inst.cache = Refusing(4)
    inst.cached("op", "view", "prompt", 8, lambda: "value")
    assert inst.cached("op", "view", "prompt", 8, lambda: "again") == "again"
    assert inst.cache.refused == (("op", "view", "prompt", 8), "again")
    assert len(inst.cache) == 0


# The trace


def test_an_assigned_trace_gets_events(api: ModuleType, inst: Any) -> None:
    inst.trace = trace = RecordingTrace()
    inst.set_current_probe("probe")
    inst.cached("op", "view", "abc", 8, lambda: 1)
    [event] = trace.events
    assert isinstance(event, api.TraceEvent)
    expected = ("probe", "view", "a9993e364706", 8, "op", False)
    assert (event.probe, event.view_id, event.prompt_hash) == expected[:3]
    assert (event.top_k, event.op, event.hit) == expected[3:]
    assert tuple(dataclasses.asdict(event)) == FIELDS
    assert isinstance(event.ts, float)
    assert isinstance(event.wall_ms, float)


def test_an_assigned_writer_gets_the_next_line_and_the_old_one_no_more(
    api: ModuleType, tmp_path: Path
) -> None:
    inst = api.BackendInstrumentation(trace_path=tmp_path / "old.jsonl")
    old = inst.trace
    inst.cached("op", "view", "a", 8, lambda: 1)
    inst.trace = api.TraceWriter(tmp_path / "new.jsonl")
    inst.cached("op", "view", "a", 8, never)
    assert [line["hit"] for line in read_events(tmp_path / "old.jsonl")] == [False]
    assert [line["hit"] for line in read_events(tmp_path / "new.jsonl", inst.trace)] == [True]
    assert inst.trace is not old


def test_a_replaced_writer_is_not_closed(api: ModuleType, tmp_path: Path) -> None:
    inst = api.BackendInstrumentation(trace_path=tmp_path / "old.jsonl")
    old, inst.trace = inst.trace, RecordingTrace()
    inst.close()
    old.write(api.TraceEvent(1.0, None, "view", "label", 8, "op", 1.0, True))
    assert len(read_events(tmp_path / "old.jsonl", old)) == 1


def test_a_replaced_writer_is_closed_with_its_last_reference(
    api: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    inst = api.BackendInstrumentation(trace_path=path)
    assert path in open_files()
    inst.trace = api.TraceWriter(None)
    gc.collect()
    assert path not in open_files()


def open_files() -> set[Path]:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return {Path(os.readlink(link)) for link in links if os.path.lexists(link)}


def test_a_writer_that_no_longer_serves_writes_nothing_of_the_next_run(
    api: ModuleType, tmp_path: Path
) -> None:
    inst = api.BackendInstrumentation(trace_path=tmp_path / "first.jsonl")
    inst.trace = api.TraceWriter(None)
    inst.cached("op", "view", "a", 8, lambda: 1)
    inst.close()
    assert read_events(tmp_path / "first.jsonl") == []


def test_close_closes_the_assigned_trace(inst: Any) -> None:
    inst.trace = trace = RecordingTrace()
    inst.close()
    assert trace.closed == 1


def test_one_writer_may_serve_two_instrumentations(api: ModuleType, tmp_path: Path) -> None:
    one = api.BackendInstrumentation(trace_path=tmp_path / "trace.jsonl")
    other = api.BackendInstrumentation()
    other.trace = one.trace
    one.cached("op", "one", "a", 8, lambda: 1)
    other.cached("op", "other", "a", 8, lambda: 1)
    views = [line["view_id"] for line in read_events(tmp_path / "trace.jsonl", one.trace)]
    assert views == ["one", "other"]


@pytest.mark.parametrize("with_file", [False, True], ids=["plain object", "writer"])
def test_values_from_before_the_trace_have_a_prompt_hash_too(
    api: ModuleType, inst: Any, tmp_path: Path, with_file: bool
) -> None:
    path = tmp_path / "trace.jsonl"
    inst.cached("op", "view", "abc", 8, lambda: 1)
    inst.cache.put(("op", "view", "put from outside é", 8), 2)
    inst.trace = api.TraceWriter(path) if with_file else RecordingTrace()
    inst.cached("op", "view", "abc", 8, never)
    inst.cached("op", "view", "put from outside é", 8, never)
    lines = (
        read_events(path, inst.trace) if with_file else map(dataclasses.asdict, inst.trace.events)
    )
    expected = [api.prompt_hash("abc"), api.prompt_hash("put from outside é")]
    assert [line["prompt_hash"] for line in lines] == expected


def test_an_assigned_cache_and_a_writer_work_together(api: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    inst = api.BackendInstrumentation(trace_path=path)
    inst.cached("op", "view", "abc", 8, lambda: 1)
    trace = inst.trace
    inst.cache = DictCache(api._MISS)
    inst.cached("op", "view", "abc", 8, lambda: 1)
    inst.cached("op", "view", "abc", 8, never)
    first, *others = read_events(path, trace)
    assert [line["hit"] for line in others] == [False, True]
    for line in others:
        assert line["prompt_hash"] == "a9993e364706"
        assert line.get("key") == first.get("key")


# The statistics


def test_assigned_statistics_are_counted_by_attribute(inst: Any) -> None:
    inst.stats = stats = Counters()
    inst.cached("op", "view", "a", 8, lambda: 1)
    inst.cached("op", "view", "a", 8, never)
    inst.cached_batch("op", "view", ["a", "b", "c"], 8, lambda misses: misses)
    assert stats.scoring_wall_s > 0
    stats.scoring_wall_s = 0.0
    assert vars(stats) == {
        "cache_hits": 2,
        "cache_misses": 3,
        "forward_passes": 3,
        "scoring_wall_s": 0.0,
        "batches_sent": 1,
        "batched_prompts": 2,
        "max_batch_size": 2,
    }


def test_assigned_statistics_go_on_from_their_values(inst: Any) -> None:
    inst.stats = stats = Counters()
    stats.cache_misses, stats.max_batch_size = 10, 50
    inst.cached_batch("op", "view", ["a", "b"], 8, lambda misses: misses)
    assert (stats.cache_misses, stats.max_batch_size) == (12, 50)


def test_replaced_statistics_stay_as_they_were(api: ModuleType, inst: Any) -> None:
    first = inst.stats
    inst.cached("op", "view", "a", 8, lambda: 1)
    inst.stats = api.BackendStats()
    inst.cached("op", "view", "a", 8, never)
    assert (first.cache_hits, first.cache_misses) == (0, 1)
    assert (inst.stats.cache_hits, inst.stats.cache_misses) == (1, 0)


def test_counters_written_from_outside_count_on(inst: Any) -> None:
    inst.stats.cache_hits = 100
    inst.cached("op", "view", "a", 8, lambda: 1)
    inst.cached("op", "view", "a", 8, never)
    assert inst.stats.cache_hits == 101


def test_a_subclass_of_the_statistics_is_counted(api: ModuleType, inst: Any) -> None:
    class Named(api.BackendStats):  # type: ignore[misc,name-defined]
        name = "mine"

    inst.stats = Named()
    inst.cached("op", "view", "a", 8, lambda: 1)
    assert (inst.stats.cache_misses, inst.stats.name) == (1, "mine")


# All of them


def test_a_computation_that_replaces_a_part_is_served(api: ModuleType, inst: Any) -> None:
    def compute() -> str:
        inst.cache, inst.stats, inst.trace = (
            api.ForwardCache(),
            api.BackendStats(),
            RecordingTrace(),
        )
        return "value"

    assert inst.cached("op", "view", "a", 8, compute) == "value"
    inst.cached("op", "view", "b", 8, lambda: 1)
    assert (inst.stats.cache_hits, inst.trace.hits[-1]) == (0, False)


@pytest.mark.parametrize("part", ["cache", "trace", "stats"])
def test_a_replaced_part_is_freed(inst: Any, part: str) -> None:
    class Part:
        pass

    setattr(inst, part, assigned := Part())
    reference = weakref.ref(assigned)
    del assigned
    setattr(inst, part, None)
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("part", ["cache", "trace", "stats"])
def test_a_look_alike_that_knows_its_instrumentation_is_collected(
    api: ModuleType, part: str
) -> None:
    class Part:
        def __init__(self, owner: object) -> None:
            self.owner = owner

    inst = api.BackendInstrumentation()
    setattr(inst, part, assigned := Part(inst))
    reference = weakref.ref(assigned)
    del inst, assigned
    gc.collect()
    assert reference() is None

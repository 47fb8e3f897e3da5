"""Figures of each op and view, statistics of one run, and reports that add up."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forwardcache import BackendInstrumentation, BackendStats, CallStats, Report
from tests.instrumentation.doubles import DictCache, never, raising
from tests.instrumentation.together import Askers


def sleeping(seconds: float) -> Callable[[], str]:
    def compute() -> str:
        time.sleep(seconds)
        return "value"

    return compute


def test_hits_misses_and_failures_are_counted_for_each_op_and_view() -> None:
    inst = BackendInstrumentation()
    for view in ("base", "ft", "ft"):
        inst.cached("dist", view, "prompt", 8, lambda: 1)
    inst.cached_batch("roll", "ft", ["a", "b", "a"], 8, lambda indices: indices)
    with pytest.raises(ValueError, match="no"):
        inst.cached("roll", "ft", "c", 8, raising(ValueError("no")))
    calls = inst.stats.calls()
    assert set(calls) == {("dist", "base"), ("dist", "ft"), ("roll", "ft")}
    assert (calls["dist", "ft"].hits, calls["dist", "ft"].misses) == (1, 1)
    roll = calls["roll", "ft"]
    assert (roll.hits, roll.misses, roll.failed) == (1, 3, 1)
    by_view, by_op = inst.stats.by_view(), inst.stats.by_op()
    assert (by_view["ft"].hits, by_view["ft"].misses) == (2, 4)
    assert (by_op["dist"].hits, by_op["dist"].misses) == (1, 2)
    assert sum(figures.hits for figures in calls.values()) == inst.stats.cache_hits
    assert sum(figures.misses for figures in calls.values()) == inst.stats.cache_misses


def test_equal_names_are_one_line_whatever_object_holds_them() -> None:
    inst = BackendInstrumentation()
    for number in range(100):
        inst.cached("".join(["o", "p"]), "".join(["v", "iew"]), str(number), 8, lambda: 1)
    assert {call: each.misses for call, each in inst.stats.calls().items()} == {("op", "view"): 100}


def test_a_hit_saves_what_its_computation_took() -> None:
    inst = BackendInstrumentation()
    inst.cached("op", "view", "a", 8, sleeping(0.02))
    assert inst.stats.saved_s == 0.0
    for _ in range(3):
        inst.cached("op", "view", "a", 8, never)
    figures = inst.stats.calls()["op", "view"]
    assert figures.compute_s >= 0.02
    assert figures.saved_s == pytest.approx(3 * figures.compute_s)
    assert inst.stats.saved_s == figures.saved_s


def test_hits_of_a_batch_save_their_share_of_the_batch_that_computed_them() -> None:
    inst = BackendInstrumentation()

    def compute(indices: list[int]) -> list[int]:
        time.sleep(0.02)
        return indices

    inst.cached_batch("op", "view", ["a", "b"], 8, compute)
    inst.cached_batch("op", "view", ["a", "b"], 8, raising(AssertionError()))
    figures = inst.stats.calls()["op", "view"]
    assert figures.saved_s == pytest.approx(figures.compute_s)


def test_an_eviction_counts_for_the_view_that_lost_its_entry() -> None:
    inst = BackendInstrumentation(cache_maxsize=2)
    inst.cached("op", "base", "a", 8, lambda: 1)
    for prompt in ("a", "b"):
        inst.cached("op", "ft", prompt, 8, lambda: 1)
    calls = inst.stats.calls()
    assert (calls["op", "base"].evictions, calls["op", "ft"].evictions) == (1, 0)
    assert inst.stats.evictions == inst.cache.evictions == 1


def test_a_working_set_larger_than_the_cache_scanned_twice_is_recomputed() -> None:
    inst = BackendInstrumentation(cache_maxsize=10)
    prompts = [str(number) for number in range(15)]
    for _ in range(2):
        for prompt in prompts:
            inst.cached("op", "view", prompt, 8, lambda: 1)
    assert (inst.stats.cache_misses, inst.stats.recomputed) == (30, 15)
    inst.cached_batch("op", "view", prompts[:5], 8, lambda indices: indices)
    assert inst.stats.by_view()["view"].recomputed == 20


def test_a_value_that_was_invalidated_is_not_called_recomputed() -> None:
    inst = BackendInstrumentation(cache_maxsize=1)
    for prompt in "aba":
        inst.cached("op", "view", prompt, 8, lambda: 1)
    assert inst.stats.recomputed == 1
    inst.invalidate()
    inst.cached("op", "view", "a", 8, lambda: 1)
    assert inst.stats.recomputed == 1


def test_what_was_cleared_or_invalidated_is_not_called_evicted() -> None:
    inst = BackendInstrumentation(cache_maxsize=10)
    for forget in (inst.cache.clear, inst.invalidate):
        for _ in range(2):
            for prompt in "abc":
                inst.cached("op", "view", prompt, 8, lambda: 1)
            forget()
    assert (inst.stats.recomputed, inst.stats.evictions) == (0, 0)


def test_waits_are_counted_with_their_seconds() -> None:
    inst, askers = BackendInstrumentation(), Askers()

    def ask() -> None:
        askers.come()
        inst.cached("op", "view", "a", 8, never)

    def compute() -> str:
        waiter.start()
        askers.all_wait(1)
        return "value"

    waiter = threading.Thread(target=ask)
    inst.cached("op", "view", "a", 8, compute)
    waiter.join()
    figures = inst.stats.calls()["op", "view"]
    assert (figures.waits, figures.hits, figures.misses) == (1, 1, 1)
    assert figures.wait_s == inst.stats.wait_s > 0


def test_figures_are_exact_under_16_threads() -> None:
    inst = BackendInstrumentation(cache_maxsize=None)

    def score(number: int) -> None:
        for turn in range(500):
            inst.cached("op", f"view {number % 4}", str(turn % 50), 8, lambda: 1)

    threads = [threading.Thread(target=score, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = inst.stats.calls()
    assert sum(each.hits + each.misses for each in calls.values()) == 16 * 500
    assert {each.misses for each in calls.values()} == {50}


def test_a_snapshot_counts_no_further_and_since_is_the_difference() -> None:
    inst = BackendInstrumentation()
    inst.cached("op", "base", "a", 8, lambda: 1)
    inst.cached_batch("op", "base", ["b", "c"], 8, lambda indices: indices)
    before = inst.stats.snapshot()
    assert before == inst.stats
    assert before.calls() == inst.stats.calls()
    inst.cached("op", "base", "a", 8, never)
    inst.cached("op", "ft", "a", 8, lambda: 1)
    assert (before.cache_hits, before.cache_misses) == (0, 3)
    run = inst.stats.since(before)
    assert (run.cache_hits, run.cache_misses, run.forward_passes) == (1, 1, 1)
    assert (run.batches_sent, run.max_batch_size) == (0, 0)
    assert run.hit_rate == 0.5
    assert run.calls()["op", "base"].hits == 1
    assert run.calls()["op", "base"].misses == 0
    assert run.scoring_wall_s == pytest.approx(inst.stats.scoring_wall_s - before.scoring_wall_s)
    assert inst.stats.cache_misses == 4


def test_the_largest_batch_of_a_time_is_that_of_the_whole() -> None:
    inst = BackendInstrumentation()
    inst.cached_batch("op", "base", ["a", "b", "c"], 8, lambda indices: indices)
    before = inst.stats.snapshot()
    inst.cached_batch("op", "base", ["d"], 8, lambda indices: indices)
    assert inst.stats.since(before).max_batch_size == 3


def test_to_dict_has_the_further_figures_after_the_nine() -> None:
    row = BackendStats().to_dict()
    assert list(row)[9:] == [
        "failed_computes",
        "waits",
        "wait_s",
        "duplicate_computes",
        "trace_lost",
        "evictions",
        "recomputed",
        "saved_s",
    ]


def test_a_report_has_what_the_cache_holds() -> None:
    inst = BackendInstrumentation(cache_max_bytes=1 << 20)
    inst.cached("op", "base", "a", 8, lambda: b"x" * 1000)
    inst.cached("op", "ft", "a", 8, lambda: b"x" * 2000)
    inst.cached("op", "ft", "b", 8, lambda: b"x" * 2000)
    report = inst.report()
    assert {view: each.entries for view, each in report.by_view().items()} == {"base": 1, "ft": 2}
    assert sum(each.bytes for each in report.calls.values()) == inst.cache.nbytes
    assert report.by_view()["ft"].bytes > 4000
    inst.invalidate("ft")
    assert inst.report().by_op()["op"].entries == 1
    assert report.by_op()["op"].entries == 3, "a report stays as it was"


def test_two_instrumentations_are_merged_into_one_report() -> None:
    one, other = BackendInstrumentation(), BackendInstrumentation()
    for inst, views in ((one, ("base", "ft")), (other, ("ft", "null_7", "ft"))):
        for view in views:
            inst.cached("op", view, "a", 8, lambda: 1)
    merged = one.report() + other.report()
    assert (merged.stats.cache_misses, merged.stats.cache_hits) == (4, 1)
    assert merged.by_view()["ft"] == one.report().by_view()["ft"] + other.report().by_view()["ft"]
    assert merged.by_view()["ft"].entries == 2
    assert sum(each.misses for each in merged.calls.values()) == 4
    row = merged.to_dict()
    assert row["stats"]["forward_passes"] == 4
    assert {call["view_id"] for call in row["calls"]} == {"base", "ft", "null_7"}


def test_a_report_of_look_alikes_says_what_it_needs() -> None:
    inst = BackendInstrumentation()
    inst.cache = DictCache(None)
    assert inst.report().calls == {}
    inst.stats = object()
    with pytest.raises(TypeError, match="BackendStats"):
        inst.report()


def test_empty_figures_divide_by_nothing() -> None:
    assert CallStats().hit_rate == 0.0
    assert CallStats(hits=1, misses=3).hit_rate == 0.25
    assert Report(BackendStats()).by_view() == {}


def test_statistics_of_a_run_do_not_change_with_the_trace(tmp_path: Path) -> None:
    inst: Any = BackendInstrumentation(trace_path=tmp_path / "trace.jsonl")
    inst.cached("op", "view", "a", 8, lambda: 1)
    before = inst.stats.snapshot()
    inst.close()
    assert inst.stats == before

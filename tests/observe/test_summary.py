"""The figures of a trace: how events are counted, grouped and timed, how exact quantiles are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardcache.observe import TraceLine
from forwardcache.observe.quantiles import RELATIVE_ERROR, Quantiles
from forwardcache.observe.summary import Figures, Group, figures_of, total_of

HIT = TraceLine(1.0, None, "base", "h", 8, "op", 0.5, True, run="a", thread=0)
MISS = replace(HIT, hit=False, wall_ms=2000.0)
OP = Group(None, "base", "op")


def figures(*events: TraceLine) -> Figures:
    (only,) = figures_of(events).values()
    return only


def batch(number: int, size: int, **fields: Any) -> list[TraceLine]:
    return [replace(MISS, batch=number, batch_size=size, **fields)] * size


def test_hits_misses_and_failures_are_counted_apart() -> None:
    failed = replace(MISS, error="ValueError", wall_ms=500.0)
    waited = replace(HIT, waited=True, wall_ms=250.0)
    found = figures(HIT, HIT, waited, MISS, failed, failed)
    assert (found.events, found.hits, found.misses, found.failed) == (6, 3, 1, 2)
    assert found.waited == 1
    assert found.hit_rate == 0.75
    times = (found.hit_wall_s, found.wait_s, found.miss_wall_s, found.failed_wall_s)
    assert times == (0.001, 0.25, 2.0, 1.0)


def test_groups_are_by_probe_view_and_op_those_without_a_probe_first() -> None:
    events = [
        replace(HIT, probe=probe, view_id=view, op=op)
        for probe in ("b", "", None)
        for view in ("ft", "base")
        for op in ("q", "p")
    ]
    groups = figures_of(events * 3)
    names = [(view, op) for view in ("base", "ft") for op in ("p", "q")]
    assert list(groups) == [(probe, *name) for probe in (None, "", "b") for name in names]
    assert {each.hits for each in groups.values()} == {3}


def test_batches_are_counted_by_their_misses() -> None:
    hits = [replace(HIT, batch=1, batch_size=3)] * 2
    found = figures(*hits, *batch(1, 3), *batch(2, 1), MISS)
    assert (found.batches, found.batched, found.mean_batch_size) == (2, 4, 2.0)


def test_batches_of_threads_and_sessions_are_told_apart_also_when_their_lines_mix() -> None:
    one, other, third = batch(1, 2), batch(2, 2, thread=1), batch(1, 2, run="b")
    mixed = [event for each in zip(one, other, third, strict=True) for event in each]
    assert figures(*mixed).batches == 3


def test_a_batch_that_failed_is_none_that_was_computed() -> None:
    found = figures(*batch(1, 2, error="ValueError"))
    assert (found.batches, found.mean_batch_size, found.failed) == (0, None, 2)


def test_runs_and_times_are_those_of_all_events() -> None:
    found = figures(HIT, replace(HIT, ts=-3.0, run="b"), replace(HIT, ts=math.nan, run=None))
    assert (found.sessions, found.first_ts, found.last_ts) == ({"a", "b"}, -3.0, 1.0)


def test_an_event_without_times_counts_in_everything_but_the_times() -> None:
    found = figures(replace(HIT, ts=math.nan, wall_ms=math.nan)).as_dict()
    assert found["hits"] == 1
    assert found["hit_wall_s"] == 0.0
    unknown = ("first_ts", "last_ts", "wall_ms_p50", "wall_ms_p99", "mean_batch_size")
    assert {found[name] for name in unknown} == {None}


def test_the_total_of_groups_is_what_their_events_come_to_in_one_group() -> None:
    events = [
        *batch(1, 3),
        *batch(2, 2, error="ValueError", wall_ms=3.0, ts=0.5),
        replace(HIT, waited=True, run="b", ts=9.0, wall_ms=7.0),
        HIT,
    ]
    apart = [replace(event, view_id=str(number)) for number, event in enumerate(events)]
    total = total_of(figures_of(apart).values()).as_dict()
    together = figures(*events).as_dict()
    # Events of one batch in several views are that many batches.
    for name in ("batches", "mean_batch_size"):
        del total[name], together[name]
    assert total == pytest.approx(together)


SIZES = st.lists(st.floats(min_value=1e-9, max_value=1.7e308), min_size=1, max_size=200)


@given(SIZES, st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]))
def test_a_quantile_is_within_half_a_per_cent(values: list[float], share: float) -> None:
    quantiles = Quantiles()
    for value in values:
        quantiles.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert quantiles.at(share) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.0001)


@given(SIZES, SIZES)
def test_quantiles_of_two_parts_are_those_of_the_whole(
    one: list[float], other: list[float]
) -> None:
    parts, whole = (Quantiles(), Quantiles()), Quantiles()
    for part, values in zip(parts, (one, other), strict=True):
        for value in values:
            part.add(value)
            whole.add(value)
    parts[0].include(parts[1])
    assert [parts[0].at(share) for share in (0.1, 0.5, 1.0)] == [
        whole.at(share) for share in (0.1, 0.5, 1.0)
    ]


def test_zero_and_negative_times_are_counted() -> None:
    quantiles = Quantiles()
    assert quantiles.at(0.5) is None
    for value in (-1.0, 0.0, 0.0, 5.0):
        quantiles.add(value)
    assert [quantiles.at(share) for share in (0.25, 0.5, 1.0)] == [
        0,
        0,
        pytest.approx(5, rel=0.005),
    ]


def test_one_value_is_given_back_as_it_is() -> None:
    quantiles = Quantiles()
    quantiles.add(0.25)
    assert quantiles.at(0.5) == 0.25

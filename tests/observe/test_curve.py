"""``miss_ratio_curve``: against a cache that is simulated use by use.

Checked: 1,000 random traces at every size, by count and by seconds; bytes against a simulation;
runs, failures and events without a key; what is refused.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest

from forwardcache.observe import TraceLine, miss_ratio_curve


def use(key: str | None, **fields: Any) -> TraceLine:
    known: dict[str, Any] = {"run": "a", "hit": False, "wall_ms": 1.0}
    return TraceLine(
        ts=0.0, probe=None, view_id="base", prompt_hash="h", top_k=1, op="o", key=key,
        **known | fields,
    )  # fmt: skip


def some_trace(rng: random.Random) -> list[TraceLine]:
    keys = rng.randint(1, 12)
    return [
        use(f"{rng.randrange(keys):016x}", wall_ms=rng.randint(0, 9) * 1.0, bytes=rng.randint(0, 9))
        for _ in range(rng.randint(1, 60))
    ]


def missed(events: Sequence[TraceLine], *, entries: int) -> list[TraceLine]:
    kept: OrderedDict[Any, None] = OrderedDict()
    misses = []
    for event in events:
        key = (event.run, event.key)
        if key not in kept:
            misses.append(event)
            kept[key] = None
        kept.move_to_end(key)
        while len(kept) > entries:
            kept.popitem(last=False)
    return misses


def missed_in_bytes(events: Sequence[TraceLine], max_bytes: int) -> int:
    kept: OrderedDict[str | None, int] = OrderedDict()
    misses = 0
    for event in events:
        if event.key in kept:
            kept.move_to_end(event.key)
            continue
        misses += 1
        weight = event.bytes or 0
        if weight <= max_bytes:
            while sum(kept.values()) + weight > max_bytes:
                kept.popitem(last=False)
            kept[event.key] = weight
    return misses


def test_the_curve_is_that_of_a_simulated_cache_at_every_size() -> None:
    rng = random.Random(7)
    for _ in range(1000):
        events = some_trace(rng)
        sizes = range(1, 15)
        simulated = {n: len(missed(events, entries=n)) / len(events) for n in sizes}
        assert miss_ratio_curve(events, sizes=sizes) == pytest.approx(simulated)
        staircase = miss_ratio_curve(events)
        for n in sizes:
            assert staircase[max(size for size in staircase if size <= n)] == simulated[n]


def test_seconds_are_those_that_computing_took() -> None:
    rng = random.Random(8)
    for _ in range(200):
        # A key always takes as long, so that any size recomputes the same seconds.
        events = [use(key, wall_ms=float(int(key, 16) + 1)) for key in
                  (f"{rng.randrange(9):016x}" for _ in range(40))]  # fmt: skip
        total = sum(event.wall_ms for event in events)
        spent = {
            n: sum(event.wall_ms for event in missed(events, entries=n)) / total
            for n in range(1, 11)
        }
        curve = miss_ratio_curve(events, sizes=range(1, 11), weight="seconds")
        assert curve == pytest.approx(spent)


def test_a_hit_counts_with_the_seconds_that_its_key_took_before() -> None:
    slow = [use("a", wall_ms=3000.0), use("a", hit=True, wall_ms=0.001)]
    curve = miss_ratio_curve([*slow, use("b", wall_ms=2000.0)], sizes=[1], weight="seconds")
    assert curve == pytest.approx({1: 5 / 8})


def test_bytes_are_simulated_at_each_size() -> None:
    rng = random.Random(9)
    for _ in range(300):
        weights = {f"{n:016x}": rng.randint(0, 9) for n in range(8)}
        keys = rng.choices(list(weights), k=50)
        events = [use(key, bytes=weights[key]) for key in keys]
        sizes = [1, 3, 8, 20, 100]
        simulated = {size: missed_in_bytes(events, size) / 50 for size in sizes}
        assert miss_ratio_curve(events, sizes=sizes, weight="bytes") == simulated


def test_more_keys_than_slots_are_numbered_anew() -> None:
    rounds = [use(f"{n:016x}") for _ in range(3) for n in range(5000)]
    assert miss_ratio_curve(rounds) == {1: 1.0, 5000: pytest.approx(1 / 3)}


def test_runs_share_no_key() -> None:
    assert miss_ratio_curve([use("a", run="a"), use("a", run="b")], sizes=[9]) == {9: 1.0}


def test_failures_and_events_without_a_key_are_left_out() -> None:
    events = [use("a"), use(None), use("a", error="ValueError"), use("a", hit=True)]
    assert miss_ratio_curve(events, sizes=[1]) == {1: 0.5}
    assert miss_ratio_curve([use(None)]) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": "tokens"}, "weight must be one of count, seconds, bytes; got 'tokens'"),
        ({"weight": "bytes"}, "sizes must be given"),
        ({"sizes": [4, 0]}, "sizes must be positive; got 0"),
    ],
)
def test_what_is_refused_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        miss_ratio_curve([], **arguments)

"""``BackendStats``: writable counters that look like a dataclass.

Not checked here: who counts what (``test_cached``, ``test_cached_batch``), counting from several
threads (``test_threads``).
"""

import copy
import dataclasses
import json
from types import ModuleType
from typing import Any

import pytest

VALUES = {
    "cache_hits": 3,
    "cache_misses": 1,
    "forward_passes": 4,
    "scoring_wall_s": 0.5,
    "batches_sent": 2,
    "batched_prompts": 7,
    "max_batch_size": 5,
}
DICT_ORDER = [
    "cache_hits",
    "cache_misses",
    "forward_passes",
    "scoring_wall_s",
    "hit_rate",
    "batches_sent",
    "batched_prompts",
    "max_batch_size",
    "avg_batch_size",
]


def test_arguments_are_positional_in_the_documented_order(api: ModuleType) -> None:
    stats = api.BackendStats(*VALUES.values())
    assert {name: getattr(stats, name) for name in VALUES} == VALUES


def test_arguments_are_keywords_too(api: ModuleType) -> None:
    assert api.BackendStats(**VALUES) == api.BackendStats(*VALUES.values())


def test_everything_starts_at_zero(api: ModuleType) -> None:
    stats = api.BackendStats()
    assert [getattr(stats, name) for name in VALUES] == [0] * 7
    assert isinstance(stats.scoring_wall_s, float)
    assert isinstance(stats.cache_hits, int)


@pytest.mark.parametrize("name", VALUES)
def test_every_field_is_writable(api: ModuleType, name: str) -> None:
    stats = api.BackendStats()
    setattr(stats, name, 41)
    setattr(stats, name, getattr(stats, name) + 1)
    assert getattr(stats, name) == 42
    assert stats == api.BackendStats(**{name: 42})


@pytest.mark.parametrize("name", VALUES)
def test_equality_looks_at_every_field(api: ModuleType, name: str) -> None:
    stats, same = api.BackendStats(**VALUES), api.BackendStats(**VALUES)
    assert stats == same
    setattr(same, name, VALUES[name] + 1)
    assert stats != same


def test_stats_equal_no_other_type(api: ModuleType) -> None:
    assert api.BackendStats() != tuple([0] * 7)
    assert api.BackendStats() != 0


def test_the_repr_is_that_of_a_dataclass(api: ModuleType) -> None:
    arguments = ", ".join(f"{name}={value}" for name, value in VALUES.items())
    assert repr(api.BackendStats(**VALUES)) == f"BackendStats({arguments})"


def test_dataclass_functions_work(api: ModuleType) -> None:
    stats: Any = api.BackendStats(**VALUES)
    assert dataclasses.is_dataclass(stats) is True
    assert [field.name for field in dataclasses.fields(stats)] == list(VALUES)
    assert [field.name for field in dataclasses.fields(api.BackendStats)] == list(VALUES)
    assert dataclasses.asdict(stats) == VALUES
    assert dataclasses.astuple(stats) == tuple(VALUES.values())


def test_replace_makes_another_object(api: ModuleType) -> None:
    stats = api.BackendStats(**VALUES)
    changed = dataclasses.replace(stats, cache_hits=99)
    assert changed == api.BackendStats(**{**VALUES, "cache_hits": 99})
    assert stats.cache_hits == 3


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, dataclasses.replace])
def test_a_copy_stays_as_it_was(api: ModuleType, make: object) -> None:
    assert callable(make)
    stats = api.BackendStats(**VALUES)
    before = make(stats)
    stats.cache_hits += 1
    assert before == api.BackendStats(**VALUES)


def test_to_dict_begins_with_the_documented_names_in_order(api: ModuleType) -> None:
    assert list(api.BackendStats().to_dict())[:9] == DICT_ORDER


def test_to_dict_has_the_values_of_the_fields_and_ratios(api: ModuleType) -> None:
    stats = api.BackendStats(**VALUES)
    row = stats.to_dict()
    assert {name: row[name] for name in VALUES} == VALUES
    assert (row["hit_rate"], row["avg_batch_size"]) == (0.75, 3.5)
    assert json.loads(json.dumps(row)) == row


def test_ratios_are_computed_from_the_fields(api: ModuleType) -> None:
    stats = api.BackendStats(**VALUES)
    assert (stats.total_lookups, stats.hit_rate, stats.avg_batch_size) == (4, 0.75, 3.5)
    stats.cache_hits = 0
    stats.batched_prompts = 3
    assert (stats.total_lookups, stats.hit_rate, stats.avg_batch_size) == (1, 0.0, 1.5)


def test_ratios_are_zero_when_nothing_was_counted(api: ModuleType) -> None:
    stats = api.BackendStats()
    assert (stats.total_lookups, stats.hit_rate, stats.avg_batch_size) == (0, 0.0, 0.0)
    assert isinstance(stats.hit_rate, float)
    assert isinstance(stats.avg_batch_size, float)
    assert (stats.to_dict()["hit_rate"], stats.to_dict()["avg_batch_size"]) == (0.0, 0.0)


def test_a_dataclass_may_inherit_and_attributes_may_be_added(api: ModuleType) -> None:
    @dataclasses.dataclass
    class Priced(api.BackendStats):  # type: ignore[misc,name-defined]
        price: float = 0.5

    stats = Priced(cache_hits=3)
    assert (stats.cache_hits, stats.price) == (3, 0.5)
    plain = api.BackendStats()
    plain.note = "mine"
    assert vars(plain)["note"] == "mine"

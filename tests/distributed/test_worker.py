"""Claims: a worker tells what it loaded, or why it can't; it scores a part as one process does."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from forwardcache.distributed.wire import Part, answer, packed, packed_options
from forwardcache.distributed.worker import Worker
from forwardcache.errors import AdapterError, ModelLoadError, WorkerError
from forwardcache.instrumentation import BackendStats
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.views import parse_views
from tests.cli.conftest import ASSETS

MODEL, ADAPTER = str(ASSETS / "model"), str(ASSETS / "adapter")


def worker(**options: Any) -> Worker:
    return Worker(packed_options(ModelOptions(**{"model": MODEL, "dtype": "float32"} | options)))


def test_what_can_not_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not a folder"):
        answer(worker(model=str(tmp_path / "none")).load())
    with pytest.raises(AdapterError, match=tmp_path.name):
        answer(worker(adapters=(NamedAdapter(None, str(tmp_path)),)).load())
    with pytest.raises(WorkerError, match="no model yet"):
        answer(worker().close())


def test_a_worker_tells_what_was_warned_of(tmp_path: Path) -> None:
    folder = shutil.copytree(ADAPTER, tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    settings["base_model_name_or_path"] = "somebody/another-model"
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    one = worker(adapters=(NamedAdapter(None, str(folder)),))
    [words] = answer(one.load())["warnings"]
    assert f"{folder} was trained on somebody/another-model" in words
    logging.getLogger("forwardcache.store").warning("the store fails")
    assert answer(one.close())["warnings"] == ["the store fails"]
    logging.getLogger("forwardcache.store").warning("another worker of this process")
    assert answer(one.close())["warnings"] == []


def test_a_worker_has_adapters_by_name() -> None:
    adapters = (NamedAdapter("a", ADAPTER), NamedAdapter("b", ADAPTER))
    one = worker(adapters=adapters)
    answer(one.load())
    views = parse_views("ft:b,base,ft:a", has_adapter=True, adapters=("a", "b"))
    part = Part((Prompt(1, "A list is"),), (4,), "next_token_dist", views, 4, 1024)
    found = answer(one.rows(part.packed()))
    rows = {row["view"]: row["logprobs"] for row in found["rows"]}
    assert list(rows) == ["ft:b", "base", "ft:a"]
    # Two names for one content.
    assert rows["ft:a"] == rows["ft:b"] != rows["base"]
    assert found["stats"]["forward_passes"] == 2
    assert answer(one.close()) == {"missing_events": 0, "warnings": []}


def test_a_part_is_scored_and_counted(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    one = worker(adapters=(NamedAdapter(None, ADAPTER),), trace=trace)
    assert answer(one.load())["vocab_size"] > 0
    texts = ["A list is", "Every function returns", "x " * 5000]
    first, second, refused = answer(one.lengths(packed(["next_token_dist", texts])))
    assert "context length" in refused
    prompts = tuple(Prompt(number, text) for number, text in enumerate(texts[:2]))
    views = parse_views("base,ft", has_adapter=True)
    part = Part(prompts, (first, second), "next_token_dist", views, 4, 1024)
    found = answer(one.rows(part.packed()))
    assert [(row["id"], row["view"]) for row in found["rows"]] == [
        (0, "base"), (0, "ft"), (1, "base"), (1, "ft"),
    ]  # fmt: skip
    assert found["tokens_run"] == 2 * (first + second)
    assert (found["stats"]["forward_passes"], found["nonfinite"]) == (4, 0)
    again = answer(one.rows(part.packed()))
    assert (again["tokens_run"], again["stats"]["cache_hits"]) == (0, 4)
    assert answer(one.close()) == {"missing_events": 0, "warnings": []}
    events = [json.loads(line) for line in trace.read_text("utf-8").splitlines()]
    assert len(events) == 8


def test_values_that_are_not_finite_count_for_the_part_that_they_are_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = SimpleNamespace(
        stats=BackendStats(), nonfinite_results=100, rendered=lambda items, op: items
    )

    def rows_of(self: object, _: range) -> tuple[list[Any], list[Any]]:
        backend.nonfinite_results += 3
        return [], []

    monkeypatch.setattr("forwardcache.distributed.worker.Scoring.rows_of", rows_of)
    one = worker()
    one._session = cast(Any, SimpleNamespace(backend=backend, recorder=None))
    part = Part((Prompt(1, "a"),), (1,), "next_token_dist", (), 4, 1024)
    for _ in range(2):
        assert answer(one.rows(part.packed()))["nonfinite"] == 3

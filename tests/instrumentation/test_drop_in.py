"""A backend and its doubles, written for the plain-Python API, run on either with no change.

What a class in Python allows, these have to allow: subclasses with their own ``__init__`` and
attributes, methods that are overridden, objects made by keyword.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.instrumentation.doubles import FIELDS, never, read_events


class WordCounter:
    """A backend whose model counts words, as such a backend is written in plain Python."""

    def __init__(self, api: ModuleType, trace_path: Path | None = None) -> None:
        self.instrumentation = api.BackendInstrumentation(cache_maxsize=4, trace_path=trace_path)
        self.view_id = "base"
        self.forwards: list[list[str]] = []

    def _forward(self, prompts: Sequence[str]) -> list[int]:
        self.forwards.append(list(prompts))
        return [len(prompt.split()) for prompt in prompts]

    def score(self, prompt: str, *, top_k: int = 256) -> int:
        words: int = self.instrumentation.cached(
            "score", self.view_id, prompt, top_k, lambda: self._forward([prompt])[0]
        )
        return words

    def score_batch(self, prompts: Sequence[str], *, top_k: int = 256) -> list[int]:
        words: list[int] = self.instrumentation.cached_batch(
            op="score",
            view_id=self.view_id,
            prompts=prompts,
            top_k=top_k,
            compute_misses=lambda indices: self._forward([prompts[index] for index in indices]),
        )
        return words


def test_a_backend_runs_each_forward_once(api: ModuleType, tmp_path: Path) -> None:
    backend = WordCounter(api, tmp_path / "trace.jsonl")
    assert backend.score("one two") == 2
    assert backend.score_batch(["one", "one two", "one two three"]) == [1, 2, 3]
    assert backend.score_batch(["one", "one two", "one two three"]) == [1, 2, 3]
    assert backend.forwards == [["one two"], ["one", "one two three"]]
    report = backend.instrumentation.stats.to_dict()
    assert (report["forward_passes"], report["cache_hits"], report["hit_rate"]) == (3, 4, 4 / 7)
    backend.instrumentation.close()
    hits = [line["hit"] for line in read_events(tmp_path / "trace.jsonl")]
    assert hits == [False, True, False, False, True, True, True]


def test_a_report_of_its_own_starts_with_new_statistics(api: ModuleType) -> None:
    backend = WordCounter(api)
    backend.score("one")
    backend.instrumentation.stats = api.BackendStats()
    backend.score("one")
    assert backend.instrumentation.stats.hit_rate == 1.0


def test_an_instrumentation_may_be_subclassed(api: ModuleType, tmp_path: Path) -> None:
    class Named(api.BackendInstrumentation):  # type: ignore[misc,name-defined]
        def __init__(self, name: str, folder: Path) -> None:
            super().__init__(cache_maxsize=2, trace_path=folder / f"{name}.jsonl")
            self.name = name

        def cached(self, op: str, *arguments: Any, **keywords: Any) -> Any:
            return super().cached(f"{self.name}:{op}", *arguments, **keywords)

    inst = Named("mine", tmp_path)
    inst.cached("op", "view", "prompt", 8, lambda: "value")
    assert inst.cached("op", "view", "prompt", 8, never) == "value"
    assert inst.cache.maxsize == 2
    assert ("mine:op", "view", "prompt", 8) in inst.cache
    assert [line["op"] for line in read_events(tmp_path / "mine.jsonl", inst.trace)] == [
        "mine:op",
        "mine:op",
    ]


def test_a_cache_may_be_subclassed(api: ModuleType) -> None:
    class Spying(api.ForwardCache):  # type: ignore[misc,name-defined]
        def __init__(self, owner: str, *, maxsize: int) -> None:
            super().__init__(maxsize=maxsize)
            self.owner = owner
            self.asked: list[object] = []

        def get(self, key: object) -> Any:
            self.asked.append(key)
            return super().get(key)

    inst = api.BackendInstrumentation()
    inst.cache = Spying("tests", maxsize=1)
    for prompt in ("a", "b", "b"):
        inst.cached("op", "view", prompt, 8, lambda: "value")
    assert [key[2] for key in inst.cache.asked] == ["a", "b", "b"]
    assert (inst.cache.owner, inst.cache.maxsize, len(inst.cache)) == ("tests", 1, 1)
    assert (inst.stats.cache_hits, inst.stats.cache_misses) == (1, 2)


def test_a_writer_may_be_subclassed(api: ModuleType, tmp_path: Path) -> None:
    class Choosy(api.TraceWriter):  # type: ignore[misc,name-defined]
        def __init__(self, path: Path, only: str) -> None:
            super().__init__(path)
            self.only = only

        def write(self, event: Any) -> None:
            if event.view_id == self.only:
                super().write(event)

    inst = api.BackendInstrumentation()
    inst.trace = Choosy(tmp_path / "trace.jsonl", "ft")
    for view in ("base", "ft"):
        inst.cached("op", view, "prompt", 8, lambda: "value")
    inst.close()
    assert [line["view_id"] for line in read_events(tmp_path / "trace.jsonl")] == ["ft"]


def test_statistics_may_be_subclassed(api: ModuleType) -> None:
    class Priced(api.BackendStats):  # type: ignore[misc,name-defined]
        def __init__(self, price: float) -> None:
            super().__init__(forward_passes=1)
            self.price = price

        @property
        def cost(self) -> float:
            return float(self.forward_passes * self.price)

    inst = api.BackendInstrumentation()
    inst.stats = Priced(0.5)
    inst.cached("op", "view", "prompt", 8, lambda: "value")
    assert inst.stats.cost == 1.0


def test_an_event_made_by_hand_is_written(api: ModuleType, tmp_path: Path) -> None:
    inst = api.BackendInstrumentation(trace_path=tmp_path / "trace.jsonl")
    label = api._prompt_hash("abc")
    inst.trace.write(api._TraceEvent(1.5, None, "base", label, 8, "op", 0.25, hit=False))
    [line] = read_events(tmp_path / "trace.jsonl", inst.trace)
    assert [line[name] for name in FIELDS] == [1.5, None, "base", label, 8, "op", 0.25, False]


def test_the_sentinel_tells_a_miss_from_any_value(api: ModuleType) -> None:
    inst = api.BackendInstrumentation()
    key = ("op", "view", "prompt", 8)
    assert inst.cache.get(key) is api._MISS
    inst.cached(*key, lambda: None)
    assert inst.cache.get(key) is None

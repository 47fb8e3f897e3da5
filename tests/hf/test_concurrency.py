"""Claims: threads that score the same through one backend run each pass once, and never hang."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.scoring.scorer import Scorer
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.patience import HANG_S

THREADS = 6
PROMPTS = [f"{prompt} {number}" for prompt in tiny.PROMPTS for number in range(4)]


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """Results of ``works``, all begun together; an exception stands in its place."""
    results: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(index: int) -> None:
        start.wait()
        try:
            results[index] = works[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """How often each prompt was run in each view."""
    counted: Counter[Any] = Counter()
    run = Scorer.run

    def counting(self: Scorer, call: Any, tasks: Any) -> Any:
        counted.update((call.spec, task.key) for task in tasks)
        return run(self, call, tasks)

    monkeypatch.setattr(Scorer, "run", counting)
    return counted


def overlapping(backend: HFBackend, seed: int) -> Callable[[], Any]:
    """Scores a random part of the prompts in two views, batched and alone, in random order."""

    def work() -> Any:
        chosen = random.Random(seed).sample(PROMPTS, 20)
        found: dict[Any, Any] = {}
        for name, open_view in (("base", backend.as_base), ("ft", backend.as_finetuned)):
            with open_view() as view:
                batched = view.next_token_dist_batch(chosen, top_k=5)
                found |= {
                    (name, prompt): dist for prompt, dist in zip(chosen, batched, strict=True)
                }
                alone = chosen[seed]
                found[name, alone] = view.next_token_dist(alone, top_k=5)
        return found

    return work


def test_overlapping_batches_in_two_views_compute_each_value_once(
    make_backend: MakeBackend, computed: Counter[Any]
) -> None:
    backend, reference = make_backend(), make_backend()
    found = in_threads(*(overlapping(backend, seed) for seed in range(THREADS)))
    assert set(computed.values()) == {1}
    assert backend.stats.forward_passes == len(computed)
    assert backend.stats.duplicate_computes == 0
    expected: dict[Any, Any] = {}
    for seed in range(THREADS):
        expected |= overlapping(reference, seed)()
    for results in found:
        for key, dist in results.items():
            torch.testing.assert_close(
                torch.tensor(dist.logprobs), torch.tensor(expected[key].logprobs)
            )


def test_single_calls_of_one_prompt_run_it_once(
    make_backend: MakeBackend, computed: Counter[Any]
) -> None:
    backend = make_backend()
    found = in_threads(*[lambda: backend.next_token_dist(PROMPTS[0])] * THREADS)
    assert all(each is found[0] for each in found)
    assert sum(computed.values()) == backend.stats.cache_misses == 1
    assert backend.stats.cache_hits == THREADS - 1


@pytest.fixture
def unsteady(monkeypatch: pytest.MonkeyPatch) -> Callable[[HFBackend, int], None]:
    """Makes a backend's next so many forwards change a weight of the model."""

    def arrange(backend: HFBackend, times: int) -> None:
        call = ForwardRunner._call
        left = [times]

        def changing(self: Any, rows: Any, **kept: Any) -> Any:
            if left[0]:
                left[0] -= 1
                with torch.no_grad():
                    backend.model.base_model.model.lm_head.weight.mul_(1.01)
            return call(self, rows, **kept)

        monkeypatch.setattr(ForwardRunner, "_call", changing)

    return arrange


@pytest.mark.parametrize("times", [1, 3, 1000])
def test_a_model_that_changes_under_waiting_threads_hangs_nobody(
    times: int, make_backend: MakeBackend, unsteady: Any
) -> None:
    backend = make_backend(copied=True)
    unsteady(backend, times)
    works = [lambda: backend.next_token_dist_batch(PROMPTS)] * THREADS
    found = in_threads(*works)
    assert [len(each) for each in found] == [len(PROMPTS)] * THREADS
    if times < 1000:
        fresh = HFBackend(backend.model, backend.tokenizer).next_token_dist_batch(PROMPTS)
        assert backend.next_token_dist_batch(PROMPTS) == fresh


def test_values_that_are_not_finite_reach_every_waiting_thread(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(copied=True)
    with torch.no_grad():
        backend.model.base_model.model.lm_head.weight[3] = torch.nan
    found = in_threads(*[lambda: backend.next_token_dist_batch(PROMPTS[:3])] * THREADS)
    assert [[each.is_finite for each in dists] for dists in found] == [[False] * 3] * THREADS
    assert len(backend.instrumentation.cache) == 0


def test_a_forward_that_fails_is_tried_by_the_next_and_hangs_nobody(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    call = ForwardRunner._call
    left = [2]

    def failing(self: Any, rows: Any, **kept: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("out of luck")
        return call(self, rows, **kept)

    monkeypatch.setattr(ForwardRunner, "_call", failing)
    found = in_threads(*[lambda: backend.next_token_dist(PROMPTS[0])] * THREADS)
    failed = [each for each in found if isinstance(each, RuntimeError)]
    assert len(failed) == 2
    assert len({id(each) for each in found if each not in failed}) == 1

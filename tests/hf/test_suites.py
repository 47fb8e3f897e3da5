"""Claims: a suite that asks one prompt at a time through fresh views runs each pass once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

PROMPTS = tiny.PROMPTS[:4]
VIEWS: list[Callable[[HFBackend], Any]] = [
    HFBackend.as_base,
    HFBackend.as_finetuned,
    lambda backend: backend.as_scaled_adapter(0.0),
    lambda backend: backend.as_scaled_adapter(0.5),
    lambda backend: backend.as_scaled_adapter(1.0),
    lambda backend: backend.as_null_adapter(7),
]


def run_suite(backend: HFBackend) -> list[Any]:
    """What probes do: one prompt at a time, every op, each through a view of its own."""
    found: list[Any] = []
    for prompt in PROMPTS:
        for open_view in VIEWS:
            with open_view(backend) as view:
                found += [view.next_token_dist(prompt, top_k=64), view.rolling_logprob(prompt)]
            with open_view(backend) as view:
                found += [view.logprob_of(prompt, " dog"), view.next_token_dist(prompt, top_k=8)]
                found.append(view.logprobs_at(prompt, [5, 3]).tolist())
    return found


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch, shared_models: Any) -> Iterator[list[int]]:
    """One entry a forward of the shared Llama, whoever calls it."""
    inner = shared_models["llama+lora"].get_base_model()
    forward, seen = inner.forward, list[int]()

    def counting(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(inner, "forward", counting)
    tiny.counted.append(seen)
    yield seen
    tiny.counted.remove(seen)


def test_the_second_run_of_a_suite_forwards_nothing(
    make_backend: MakeBackend, forwards: list[int]
) -> None:
    backend = make_backend()
    first = run_suite(backend)
    made, counted = len(forwards), backend.stats.forward_passes
    assert run_suite(backend) == first
    assert len(forwards) == made
    assert backend.stats.forward_passes == counted


def test_the_first_run_forwards_only_what_differs(
    make_backend: MakeBackend, forwards: list[int]
) -> None:
    # λ=0 is base and λ=1 is ft, and the 8 most likely tokens are among the 64: of the six views
    # four are run, and of the five calls in each four.
    backend = make_backend()
    run_suite(backend)
    assert len(forwards) == len(PROMPTS) * 4 * 4
    assert backend.stats.forward_passes == backend.stats.cache_misses == len(forwards)

"""Claims: a null adapter's noise is drawn once a seed, within bounds, and leaves nothing behind."""

import gc
from typing import Any

import pytest
import torch

from forwardcache.hf import HFBackend
from forwardcache.hf.model import null_noise
from forwardcache.hf.model.null_noise import NoiseStore
from forwardcache.hf.model.switch import switched
from forwardcache.hf.spec import null
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

PROMPT = "the quick brown fox"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that noise was drawn for."""
    seeds: list[int] = []
    draw = null_noise._drawn

    def recording(spec: Any, weights: Any) -> Any:
        seeds.append(spec.seed)
        return draw(spec, weights)

    monkeypatch.setattr(null_noise, "_drawn", recording)
    return seeds


def score(backend: HFBackend, seed: int, prompt: str, **options: Any) -> Any:
    with backend.as_null_adapter(seed, **options) as view:
        return view.next_token_dist(prompt)


def test_noise_is_drawn_once_a_seed_and_scale(make_backend: MakeBackend, drawn: list[int]) -> None:
    backend = make_backend(copied=True)
    for prompt in tiny.PROMPTS:
        for seed in (1, 2):
            score(backend, seed, prompt)
    assert drawn == [1, 2]
    score(backend, 1, PROMPT, init_scale=0.5)
    score(HFBackend(backend.model, backend.tokenizer), 1, PROMPT)
    assert drawn == [1, 2, 1]


def test_kept_noise_gives_the_values_of_fresh_noise(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    first = score(backend, 1, PROMPT)
    score(backend, 2, PROMPT)
    backend.weights_changed()
    assert score(backend, 1, PROMPT) == first
    assert score(make_backend(copied=True), 1, PROMPT) == first


def test_noise_follows_the_adapters_shapes_and_dtype(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    score(backend, 1, PROMPT)
    backend.model.bfloat16()
    assert score(backend, 1, PROMPT).is_finite
    other = make_backend(copied=True)
    other.model.bfloat16()
    assert score(backend, 1, PROMPT) == score(other, 1, PROMPT)


def test_the_bytes_kept_are_bounded_and_the_oldest_noise_goes_first(
    monkeypatch: pytest.MonkeyPatch, drawn: list[int]
) -> None:
    weights = [torch.zeros(100), torch.zeros(4, 25)]
    monkeypatch.setattr(null_noise, "NOISE_MAX_BYTES", 2 * 800)
    store = NoiseStore()
    for seed in (1, 2, 1, 3, 1, 2):
        store.get(null(seed, 0.02, 1.0), weights)
        assert store.nbytes <= 1600
    assert drawn == [1, 2, 3, 2]
    store.get(null(9, 0.02, 1.0), [torch.zeros(1000)])
    assert store.nbytes == 1600


def test_noise_goes_with_the_model() -> None:
    model = tiny.with_lora(tiny.llama())
    with switched(model, null(1, 0.02, 1.0)):
        pass
    # Models of other tests that are gone already are no part of this.
    gc.collect()
    kept = len(null_noise._noises)
    del model
    gc.collect()
    assert len(null_noise._noises) == kept - 1


def test_noise_drawn_inside_inference_mode_can_be_used_outside(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    with torch.inference_mode():
        first = score(backend, 1, PROMPT)
    backend.weights_changed()
    assert score(backend, 1, PROMPT) == first


@pytest.mark.parametrize("at", [0, 1, -1])
def test_an_exception_while_noise_is_put_in_place_leaves_the_weights(
    at: int, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    before = tiny.frozen_state(backend.model)

    def broken(spec: Any, weights: Any) -> Any:
        noise = [torch.ones_like(weight) for weight in weights]
        noise[at] = None  # type: ignore[call-overload]
        return noise

    monkeypatch.setattr(null_noise.NoiseStore, "get", lambda _, *given: broken(*given))
    with pytest.raises(TypeError):
        score(backend, 1, PROMPT)
    assert tiny.frozen_state(backend.model) == before

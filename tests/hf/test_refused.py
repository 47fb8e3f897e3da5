"""Claims: what a model or a view of it can't give exactly is refused with the reason."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import T5Config, T5ForConditionalGeneration

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend
from tests.hf import tiny

PROMPT = "the quick brown fox"

BEYOND_LAMBDA: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "trained tokens": ({"trainable_token_indices": [3, 4]}, "trained tokens"),
}
BASE_CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "PiSSA": ({"init_lora_weights": "pissa"}, "pissa"),
    "OLoRA": ({"init_lora_weights": "olora"}, "olora"),
}


def backend_with(tokenizer: Any, options: dict[str, Any]) -> HFBackend:
    return HFBackend(tiny.with_lora(tiny.llama(), **options), tokenizer)


def full_base(tokenizer: Any) -> Any:
    return HFBackend(tiny.llama(), tokenizer).next_token_dist(PROMPT, top_k=9)


@pytest.mark.parametrize(("options", "reason"), BEYOND_LAMBDA.values(), ids=BEYOND_LAMBDA.keys())
def test_trained_parts_beyond_the_scaling_refuse_scaled_and_null(
    options: dict[str, Any], reason: str, tokenizer: Any
) -> None:
    backend = backend_with(tokenizer, options)
    for view in (backend.as_scaled_adapter(0.5), backend.as_null_adapter(1)):
        with pytest.raises(UnsupportedModelError, match=reason), view:
            pass


@pytest.mark.parametrize("options", [each for each, _ in BEYOND_LAMBDA.values()])
def test_there_base_is_the_base_models_own_weights_and_the_ends_of_lambda_hold(
    options: dict[str, Any], tokenizer: Any
) -> None:
    backend = backend_with(tokenizer, options)
    before = tiny.frozen_state(backend.model)
    expected = full_base(tokenizer)
    for view in (backend.as_base(), backend.as_scaled_adapter(0.0)):
        with view as base:
            found = base.next_token_dist(PROMPT, top_k=9)
        assert found.token_ids.tolist() == expected.token_ids.tolist()
        assert abs(found.logprobs - expected.logprobs).max() < 1e-5
    for view in (backend.as_finetuned(), backend.as_scaled_adapter(1.0)):
        with view as ft:
            assert ft.next_token_dist(PROMPT, top_k=9) != found
    assert backend.stats.forward_passes == 2
    assert tiny.frozen_state(backend.model) == before


@pytest.mark.parametrize(("options", "reason"), BASE_CHANGED.values(), ids=BASE_CHANGED.keys())
def test_an_adapter_that_changed_the_base_weights_leaves_only_ft(
    options: dict[str, Any], reason: str, tokenizer: Any
) -> None:
    backend = backend_with(tokenizer, options)
    views = [
        backend.as_base(),
        backend.as_scaled_adapter(0.0),
        backend.as_scaled_adapter(0.5),
        backend.as_null_adapter(1),
    ]
    for view in views:
        with pytest.raises(UnsupportedModelError, match=reason), view:
            pass
    with backend.as_finetuned() as ft:
        assert ft.next_token_dist(PROMPT).is_finite


def test_a_merged_adapter_leaves_only_ft_and_is_not_unmerged(tokenizer: Any) -> None:
    backend = backend_with(tokenizer, {})
    expected = backend.next_token_dist(PROMPT)
    backend.model.merge_adapter()
    before = tiny.frozen_state(backend.model)
    for view in (backend.as_base(), backend.as_scaled_adapter(0.5), backend.as_null_adapter(1)):
        with pytest.raises(UnsupportedModelError, match="merged"), view:
            pass
    found = backend.next_token_dist(PROMPT)
    assert abs(found.logprobs - expected.logprobs).max() < 1e-4
    assert tiny.frozen_state(backend.model) == before


def test_a_model_whose_adapter_was_merged_away_is_refused(tokenizer: Any) -> None:
    backend = backend_with(tokenizer, {})
    backend.model.merge_and_unload()
    with pytest.raises(UnsupportedModelError, match="no adapter layers"):
        backend.next_token_dist(PROMPT)


def test_a_view_that_becomes_inexact_inside_its_with_is_refused(tokenizer: Any) -> None:
    backend = backend_with(tokenizer, {})
    with backend.as_base() as base:
        base.next_token_dist(PROMPT)
        backend.model.merge_adapter()
        with pytest.raises(UnsupportedModelError, match="merged"):
            base.next_token_dist(PROMPT)


@pytest.mark.parametrize(
    "options", [{"use_rslora": True}, {"lora_bias": True, "target_modules": ["c_attn"]}]
)
def test_rslora_and_lora_with_bias_scale_as_plain_lora(
    options: dict[str, Any], tokenizer: Any
) -> None:
    model = tiny.gpt2() if "lora_bias" in options else tiny.llama()
    backend = HFBackend(tiny.with_lora(model, **options), tokenizer)
    with backend.as_base() as base:
        start = base.next_token_dist(PROMPT, top_k=5)
    with backend.as_scaled_adapter(1e-6) as near:
        found = near.logprobs_at(PROMPT, start.token_ids)
    assert abs(found - start.logprobs).max() < 1e-4


def test_of_several_adapters_the_active_one_is_ft(tokenizer: Any) -> None:
    backend = backend_with(tokenizer, {})
    first = backend.next_token_dist(PROMPT)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    backend.model.add_adapter("other", config)
    named = HFBackend(backend.model, tokenizer, adapter="other")
    assert named.next_token_dist(PROMPT) != first
    backend.model.set_adapter("default")
    assert named.next_token_dist(PROMPT) == first


def test_an_embedding_adapter_is_part_of_the_null(tokenizer: Any) -> None:
    backend = backend_with(tokenizer, {"target_modules": ["embed_tokens"]})
    with backend.as_null_adapter(1, init_scale=0.0) as null, torch.no_grad():
        found = null.next_token_dist(PROMPT, top_k=9)
    assert abs(found.logprobs - full_base(tokenizer).logprobs).max() < 1e-5


def test_an_encoder_decoder_is_refused(tokenizer: Any) -> None:
    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        HFBackend(T5ForConditionalGeneration(config), tokenizer)


def test_what_is_no_transformers_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="Linear"):
        HFBackend(torch.nn.Linear(2, 2), tokenizer)


def test_a_model_without_a_head_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="head"):
        HFBackend(tiny.llama().model, tokenizer)


def test_weights_on_the_meta_device_are_refused(tokenizer: Any) -> None:
    with torch.device("meta"):
        model = tiny.llama()
    with pytest.raises(UnsupportedModelError, match="meta"):
        HFBackend(model, tokenizer)

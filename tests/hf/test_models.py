"""Claims: other architectures score as the oracle does, also with the head run in chunks.

Soft caps (Gemma 2), scaled logits (Granite, Cohere), a recurrent model (Mamba), one whose body is
called in its own way (OPT), experts (Mixtral), and one with sliding windows (Mistral).
"""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.tolerance import TOLERANCE

_COMMON = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": tiny.CONTEXT,
    "pad_token_id": None,
}
MODELS: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "sliding_window": 8},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "mistral": {"sliding_window": 6},
    "mixtral": {"num_local_experts": 4},
    "qwen2": {},
    "qwen3": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 4},
    "mamba": {"state_size": 4},
}


def tiny_model(model_type: str) -> Any:
    torch.manual_seed(4)
    known = AutoConfig.for_model(model_type)
    options = {key: value for key, value in _COMMON.items() if hasattr(known, key)}
    config = AutoConfig.for_model(model_type, **(options | MODELS[model_type]))
    make: Any = AutoModelForCausalLM.from_config
    # Eight times its weights, Mamba turns a rounding into more than the tolerance: float32 and
    # float64 are then 4e-4 nats apart.
    return tiny.sharpened(make(config), 3.0 if model_type == "mamba" else 8.0).eval()


@pytest.mark.parametrize("max_logit_bytes", [None, 4 * tiny.VOCAB * 5])
@pytest.mark.parametrize("model_type", MODELS)
def test_every_op_equals_the_oracle(
    model_type: str, max_logit_bytes: int | None, tokenizer: Any
) -> None:
    model = tiny_model(model_type)
    backend = HFBackend(model, tokenizer, max_logit_bytes=max_logit_bytes)
    prompts = list(tiny.PROMPTS)
    dists = backend.next_token_dist_batch(prompts, top_k=5)
    rolled = backend.rolling_logprob_batch(prompts)
    for prompt, dist, rolling in zip(prompts, dists, rolled, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        truth = tiny.logprobs_after(model, ids).numpy()
        np.testing.assert_allclose(dist.logprobs, truth[-1][dist.token_ids], atol=TOLERANCE)
        scored = [truth[position, ids[position + 1]] for position in range(len(ids) - 1)]
        np.testing.assert_allclose(rolling.logprobs, scored, atol=TOLERANCE)
    pairs = [(prompt, end) for prompt in prompts[:3] for end in (" dog", "s and again")]
    for (prompt, end), value in zip(pairs, backend.completion_logprob_batch(pairs), strict=True):
        ids = tokenizer(prompt + end)["input_ids"]
        truth = tiny.logprobs_after(model, ids).numpy()
        positions = range(len(ids) - value.num_tokens, len(ids))
        expected = sum(float(truth[position - 1, ids[position]]) for position in positions)
        assert value.logprob == pytest.approx(expected, abs=TOLERANCE * value.num_tokens)


# Layers that an adapter of each kind of model is put on; None leaves the choice to PEFT.
ADAPTED: dict[str, list[str] | None] = {
    "gemma2": None,
    "qwen2": None,
    "qwen3": None,
    "gpt_neox": None,
    "mamba": ["in_proj", "x_proj"],
}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("model_type", ADAPTED)
def test_an_adapter_has_its_views_on_every_kind_of_model(
    model_type: str, options: Any, tokenizer: Any
) -> None:
    plain = tiny_model(model_type)
    adapted = tiny.with_lora(
        copy.deepcopy(plain), target_modules=ADAPTED[model_type], r=2, **options
    )
    backend = HFBackend(adapted, tokenizer)
    prompts = list(tiny.PROMPTS[:4])
    views = {backend.as_base: plain, backend.as_finetuned: adapted}
    found = []
    for open_view, model in views.items():
        with open_view() as view:
            found.append(view.next_token_dist_batch(prompts, top_k=5))
        for prompt, dist in zip(prompts, found[-1], strict=True):
            truth = tiny.logprobs_after(model, tokenizer(prompt)["input_ids"])[-1].numpy()
            np.testing.assert_allclose(dist.logprobs, truth[dist.token_ids], atol=TOLERANCE)
    assert found[0] != found[1]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "granite"])
def test_models_that_can_run_their_head_alone_do(model_type: str, tokenizer: Any) -> None:
    model = tiny.llama() if model_type == "llama" else tiny_model(model_type)
    backend = HFBackend(model, tokenizer, max_logit_bytes=1)
    backend.rolling_logprob("the quick brown fox")
    assert backend._scorer.runner.ways.runs_head_alone


def test_a_recurrent_model_only_runs_rows_of_one_length(tokenizer: Any) -> None:
    recurrent, attention = (
        tiny.measured(partial(HFBackend, tiny_model(name), tokenizer))._scorer.runner
        for name in ("mamba", "qwen2")
    )
    lengths = [20, 19, 20]
    assert [len(batch.items) for batch in recurrent.plan(lengths, last_only=True)] == [2, 1]
    assert [len(batch.items) for batch in attention.plan(lengths, last_only=True)] == [3]

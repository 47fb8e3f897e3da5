"""Tiny models of families whose heads differ: tied, padded, capped, scaled, with a bias."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.hf import tiny

_SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": tiny.CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def _of(family: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    torch.manual_seed(4)
    config = AutoConfig.for_model(family, **_SIZES | settings)
    model = tiny.sharpened(AutoModelForCausalLM.from_config(config), 4.0)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)
    return model.to(dtype).eval()


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama, tied": lambda: _of("llama", tie_word_embeddings=True),
    "llama, padded vocabulary": lambda: _of("llama", vocab_size=tiny.VOCAB + 64),
    "llama, bfloat16": lambda: tiny.llama(dtype=torch.bfloat16),
    "llama, float16": lambda: tiny.llama(dtype=torch.float16),
    "gpt2": tiny.gpt2,
    "gemma2, soft cap": lambda: _of(
        "gemma2", head_dim=8, final_logit_softcapping=3.0, sliding_window=32
    ),
    "gemma3": lambda: _of("gemma3_text", head_dim=8, final_logit_softcapping=3.0),
    "cohere, logit scale": lambda: _of("cohere", logit_scale=0.25),
    "granite, logits scaling": lambda: _of("granite", logits_scaling=4.0),
    "phi, head with a bias": lambda: _of("phi"),
}

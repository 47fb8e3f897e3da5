"""Tiny random models of many families, with windows that a short text is longer than."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BltConfig,
    BltForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MllamaForCausalLM,
    MllamaTextConfig,
)

from tests.hf import tiny

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **dict.fromkeys(_IDS),
}
_BART: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 128,
}
_GPT: dict[str, Any] = {"vocab_size": tiny.VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}


def stretched(kind: str, original: int) -> dict[str, Any]:
    """Settings of RoPE whose frequencies change beyond the original context."""
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    rope["original_max_position_embeddings"] = original
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    return {"rope_parameters": rope, "original_max_position_embeddings": original}


def _of(model_type: str, **settings: Any) -> Callable[[], Any]:
    return lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))


def _like_llama(model_type: str, **settings: Any) -> Callable[[], Any]:
    return _of(model_type, **_SIZES, **settings)


def _gpt_oss() -> Any:
    sizes = {**_SIZES, "head_dim": 8, "num_local_experts": 4, "sliding_window": 8}
    return GptOssForCausalLM(GptOssConfig(**sizes, num_experts_per_tok=2))


def _mllama() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    sizes = {**_SIZES, "num_hidden_layers": 3, **dict.fromkeys(_IDS, 1), "rope_parameters": rope}
    return MllamaForCausalLM(MllamaTextConfig(**sizes, cross_attention_layers=[1]))


def _blt() -> Any:
    size: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "hidden_size_global": 32,
        "vocab_size": 260,
    }
    config = BltConfig(
        vocab_size=260,
        max_position_embeddings=128,
        encoder_hash_byte_group_size=[2, 3],
        encoder_hash_byte_group_vocab=50,
        patch_size=4,
        patcher_config=size,
        encoder_config=size,
        decoder_config=size,
        global_config=size,
    )
    return BltForCausalLM(config)


FAMILIES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "llama": (_like_llama("llama"), "joined", "shared"),
    "mistral": (_like_llama("mistral", sliding_window=8), "joined", "shared"),
    "gemma3_text": (
        _like_llama(
            "gemma3_text",
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
        "joined",
        "shared",
    ),
    "gpt_oss": (_gpt_oss, "joined", "shared"),
    "wide window": (_like_llama("mistral", sliding_window=100), "joined", "shared"),
    "bloom": (_of("bloom", vocab_size=tiny.VOCAB, hidden_size=32, n_layer=2, n_head=4), "joined",
              "shared"),
    "mllama": (_mllama, "joined", "shared"),
    "phi3 longrope": (_like_llama("phi3", **stretched("longrope", 16)), "alone", "given"),
    "llama longrope": (_like_llama("llama", **stretched("longrope", 16)), "alone", "given"),
    "llama dynamic": (_like_llama("llama", **stretched("dynamic", 16)), "alone", "given"),
    "qwen3_next": (
        _like_llama("qwen3_next", **_LINEAR, num_experts=4, num_experts_per_tok=2,
                    moe_intermediate_size=16, shared_expert_intermediate_size=16),
        "alone",
        "given",
    ),
    "qwen3_5_text": (_like_llama("qwen3_5_text", **_LINEAR), "alone", "given"),
    "mamba": (_of("mamba", vocab_size=tiny.VOCAB, hidden_size=32, num_hidden_layers=2,
                  state_size=8), "alone", "given"),
    "rwkv": (_of("rwkv", vocab_size=tiny.VOCAB, hidden_size=32, num_hidden_layers=2,
                 attention_hidden_size=32, context_length=128), "alone", "own"),
    "bart": (_of("bart", **_BART), "alone", "given"),
    "roberta": (_of("roberta", **{**_SIZES, "pad_token_id": 1, "is_decoder": True}), "alone",
                "given"),
    "openai-gpt": (_of("openai-gpt", **_GPT, n_positions=128), "alone", "own"),
    "blt": (_blt, "alone", "none"),
}  # fmt: skip


def family(name: str) -> Any:
    """The family's model, the same every time, in which masks and positions show."""
    torch.manual_seed(0)
    return tiny.sharpened(FAMILIES[name][0](), 6.0).eval().requires_grad_(False)

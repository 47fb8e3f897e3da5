"""What the rules of ``shrink`` can't know of a type, and the settings of types that are run beside.

The fewer lines the better: a type that isn't here is made by the rules alone.
"""

from __future__ import annotations

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_BY_KIND = {"full_attention": _ROPE, "sliding_attention": _ROPE}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 16,
    "factor": 4.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 1.5],
}

SPECIAL: dict[str, dict[str, Any]] = {
    # Parts that only work together.
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "blt": {"encoder_hash_byte_group_vocab": 50, "max_position_embeddings": 64},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "cohere2_moe": {"logit_scale": 1.0},
    "minicpm3": {"dim_model_base": 32, "scale_depth": 4.0},
    "minimax_m3_vl_text": {
        **{"layer_types": ["full_attention", "indexed_attention"] * 2},
        **{"mlp_layer_types": ["dense", "sparse", "dense", "sparse"], "index_topk_blocks": 2},
    },
    "cohere_compass_text": {"rope_parameters": _BY_KIND},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32},
    },
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1},
    "dots3_note_text": {
        **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 16},
        **{"swa_q_lora_rank": 32, "swa_kv_lora_rank": 8, "swa_qk_nope_head_dim": 8},
        **{"swa_v_head_dim": 8},
    },
    "gemma3n_text": {"num_kv_shared_layers": 2, "intermediate_size": 64},
    "gemma4_assistant": {
        "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "hrm_text": {"num_layers_per_stack": 2},
    "laguna": {
        **{"num_attention_heads_per_layer": [4] * 4},
        **{"layer_types": ["full_attention", "sliding_attention"] * 2},
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "qwen4_exp_text": {
        **{"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8},
        **{"indexer_budget": 8, "indexer_compress_ratio": 2},
    },
    "reformer": {
        **{"is_decoder": True, "axial_pos_shape": (8, 8), "axial_pos_embds_dim": (16, 16)},
        **{"attn_layers": ["local", "lsh"] * 2, "num_hidden_layers": 4},
    },
    "xlm": {"causal": True},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "mamba_dt_rank": 8},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16, "mamba_headdim": 16},
}
SPECIAL["qwen4_exp"] = {"text_config": SPECIAL["qwen4_exp_text"]}
SPECIAL["dots3_note"] = {"text_config": SPECIAL["dots3_note_text"]}

WEIGHTS: dict[str, float] = {
    # What a model's weights are multiplied by, where eight times are too much for float32.
}

_BIDIRECTIONAL = {"use_bidirectional_attention": True}

VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("gemma4_text", "sharing keys and values"): {"num_kv_shared_layers": 2},
    ("gemma4", "sharing keys and values"): {"text_config": {"num_kv_shared_layers": 2}},
    ("llama", "longrope"): {"rope_parameters": _LONGROPE},
    ("phi3", "longrope"): {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 16},
    ("llama", "dynamic rope"): {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        "max_position_embeddings": 64,
    },
    ("llama", "yarn"): {
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0},
            "original_max_position_embeddings": 16,
        }
    },
    ("mixtral", "with router logits"): {"output_router_logits": True},
    ("qwen3_moe", "with router logits"): {"output_router_logits": True},
    ("bert", "seeing all"): {"is_decoder": False},
    ("roberta", "seeing all"): {"is_decoder": False},
    ("electra", "seeing all"): {"is_decoder": False},
    ("xlm", "seeing all"): {"causal": False},
    ("gemma", "seeing all"): _BIDIRECTIONAL,
    ("gemma3_text", "seeing all"): _BIDIRECTIONAL,
    ("llama", "seeing all"): {"is_causal": False},
    ("mistral", "without window"): {"sliding_window": None},
    ("mixtral", "with window"): {"sliding_window": 8},
    ("phi3", "with window"): {"sliding_window": 8},
    ("starcoder2", "with window"): {"sliding_window": 8},
    ("qwen2", "with window"): {
        **{"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    },
    ("falcon", "alibi"): {"alibi": True},
    ("llama", "tied"): {"tie_word_embeddings": True},
    ("llama", "eager"): {"attn_implementation": "eager"},
    ("gpt2", "eager"): {"attn_implementation": "eager"},
}

_ROPE_OF_THREE = {"rope_parameters": _ROPE | {"mrope_section": [2, 1, 1]}}

IMAGES: dict[str, dict[str, Any]] = {
    "aya_vision": {},
    "idefics3": {},
    "internvl": {},
    "llava": {},
    "mistral3": {},
    "paligemma": {"text_config": {"num_attention_heads": 4, "num_key_value_heads": 2}},
    "qwen2_vl": {"text_config": _ROPE_OF_THREE},
    "qwen2_5_vl": {"text_config": _ROPE_OF_THREE},
    "qwen3_vl": {},
    "smolvlm": {},
}

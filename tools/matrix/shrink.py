"""A configuration made small by the names of its settings.

Every setting that says how large something is has a small value here. A list with one entry for
each layer is cut to as many layers as are kept, so that each kind of layer stays in. What a rule
can't know of a type is in ``special``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from tests.hf import tiny

CONTEXT = 64
WIDTH = 32
HEADS = 4
LAYERS = 4

_SMALL: dict[str, int] = {
    **dict.fromkeys(
        [
            *("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size"),
            *("word_embed_proj_dim", "attention_hidden_size", "lru_width", "hidden_size_global"),
            *("input_embedding_size", "output_embedding_size", "backbone_hidden_size"),
            *("q_lora_rank", "moe_latent_size", "out_hidden_size", "projector_input_dim"),
            *("projector_output_dim", "vision_output_dim", "adapter_out_dim", "adapter_in_dim"),
            *("conv_output_size", "adapter_input_size", "downsample_hidden_size"),
            *("audio_embed_dim", "o_lora_rank", "ple_embed_dim", "pronunciation_embed_dim"),
            *("shape_embed_dim", "hidden_dim", "output_channels", "embed_dim", "adaptor_input_dim"),
        ],
        WIDTH,
    ),
    **dict.fromkeys(
        [
            *("intermediate_size", "ffn_dim", "d_inner", "dff", "dim_ff", "feed_forward_size"),
            *("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "expert_ffn_hidden_size"),
            *("moe_intermediate_size", "shared_expert_intermediate_size", "n_inner", "mlp_dim"),
            *("shared_experts_intermediate_size", "shared_intermediate_size", "d_ff"),
            *("moe_shared_expert_intermediate_size", "intermediate_size_mlp"),
            *("dense_intermediate_size", "mlp_intermediate_size", "prefix_dense_intermediate_size"),
        ],
        2 * WIDTH,
    ),
    **dict.fromkeys(
        [
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
            *("decoder_layers", "num_encoder_layers", "num_decoder_layers", "num_blocks"),
        ],
        LAYERS,
    ),
    **dict.fromkeys(
        [
            *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
            *("decoder_attention_heads", "num_encoder_attention_heads", "attention_heads"),
            *("num_decoder_attention_heads", "linear_num_value_heads", "linear_num_heads"),
            *("swa_num_attention_heads", "num_swa_attention_heads", "mamba_num_heads"),
            *("n_mamba_heads", "num_query_groups"),
        ],
        HEADS,
    ),
    # With few heads the scores of an indexer are often all 0, and its choice among equals depends
    # on the shape of what it is given.
    "index_n_heads": 16,
    **dict.fromkeys(
        [
            *("num_key_value_heads", "kv_n_heads", "num_kv_heads", "linear_num_key_heads"),
            *("swa_num_key_value_heads", "num_global_key_value_heads"),
        ],
        2,
    ),
    **dict.fromkeys(
        [
            *("head_dim", "global_head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"),
            *("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim", "swa_head_dim"),
            *("dim_head", "attention_head_size", "d_head", "d_kv", "kv_channels"),
            *("mamba_d_head", "mamba_head_dim", "index_head_dim", "rotary_dim"),
            *("attention_head_dim", "swa_v_head_dim"),
        ],
        8,
    ),
    **dict.fromkeys(
        [
            *("kv_lora_rank", "ssm_state_size", "state_size", "mamba_d_state", "laurel_rank"),
            *("hidden_size_per_layer_input", "dim_model_base", "adapter_rank", "hc_lowrank"),
            *("loop_gate_rank", "gated_norm_rank", "router_hidden_size", "time_step_rank"),
            *("d_rel", "mamba_dt_rank", "ssm_rank"),
        ],
        8,
    ),
    **dict.fromkeys(
        [
            *("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size"),
            *("unpadded_vocab_size", "pronunciation_vocab_size", "shape_vocab_size"),
            *("audio_vocab_size",),
        ],
        tiny.VOCAB,
    ),
    **dict.fromkeys(
        [
            *("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
            *("zero_expert_num",),
        ],
        4,
    ),
    **dict.fromkeys(
        [
            *("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k", "moe_topk"),
            *("top_k", "top_k_experts", "n_group", "num_expert_group", "n_groups"),
        ],
        2,
    ),
    "topk_group": 1,
    "mamba_n_heads": 8,
    **dict.fromkeys(
        [
            *("sliding_window", "sliding_window_size", "attention_window_size", "window_size"),
            *("attention_chunk_size", "local_attention", "keep_window_size", "index_topk"),
            *("local_attention_window_len", "chunk_size", "mamba_chunk_size", "block_size"),
            *("index_block_size", "lsh_attn_chunk_length", "local_attn_chunk_length"),
        ],
        8,
    ),
    **dict.fromkeys(
        [
            *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"),
            *("max_target_positions", "max_source_positions", "model_max_length", "rel_extent"),
        ],
        CONTEXT,
    ),
    **dict.fromkeys(["bos_token_id", "decoder_start_token_id", "bos_index"], 0),
    **dict.fromkeys(["eos_token_id", "pad_token_id", "eos_index", "pad_index"], 1),
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    "depth": 2,
    "num_nextn_predict_layers": 0,
}
# What a model can't be made without, though its configuration may leave it out.
_UNSET: dict[str, int] = {
    **{"head_dim": 8, "num_key_value_heads": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    **{"num_experts_per_tok": 2},
}
# Ids of images, sounds and the like: no text has them.
_OTHER_IDS = re.compile(r"(?:image|video|audio|vision|bo[ia]|eo[ia]|sep|cls|mask|eod)_.*token")
_CYCLED = re.compile(r"(?:layer_types|layers_block_type|block_types|attention_layers)$")


def shrunk(model_type: str, special: Mapping[str, Any]) -> Any:
    """The configuration of a type, small.

    Args:
        model_type: As in the mapping of transformers.
        special: Settings that no rule gives; those of a part as a dict under the part's name.
    """
    # Types whose defaults contradict themselves can only be made with what is special.
    try:
        known = AutoConfig.for_model(model_type)
    except Exception:
        known = AutoConfig.for_model(model_type, **special)
    return AutoConfig.for_model(model_type, **settings(known, special))


def settings(known: Any, special: Mapping[str, Any]) -> dict[str, Any]:
    """What to make a configuration like ``known`` with, so that it is small.

    Args:
        known: A configuration, its parts included.
        special: Settings that win over the rules.
    """
    own = vars(known)
    found = {name: _small(name, value) for name, value in own.items()}
    layers = special.get("num_hidden_layers", found.get("num_hidden_layers"))
    deep = own.get("num_hidden_layers", own.get("num_layers", own.get("n_layer")))
    for name, value in own.items():
        if isinstance(value, PreTrainedConfig):
            part = special.get(name, {})
            found[name] = settings(value, part)
        elif isinstance(value, list | tuple) and len(value) == deep and deep > 1:
            found[name] = _fewer(name, value, layers or LAYERS)
    if "qk_nope_head_dim" in own:
        # Latent attention has a key of its own for each head.
        found["num_key_value_heads"] = found["num_attention_heads"]
    if "is_decoder" in own and not own.get("is_encoder_decoder"):
        found["is_decoder"] = True
    kept = {name: value for name, value in found.items() if value is not None}
    parts = {name for name, value in own.items() if isinstance(value, PreTrainedConfig)}
    return kept | {name: value for name, value in special.items() if name not in parts}


def _small(name: str, value: Any) -> Any:
    """The small value of a setting; None to leave it to its default."""
    if _OTHER_IDS.match(name) and isinstance(value, int):
        return tiny.VOCAB - 1 - sum(map(ord, name)) % 16
    if name in ("bos_token_id", "eos_token_id", "pad_token_id") and isinstance(value, list):
        return _SMALL[name]
    small = _SMALL.get(name)
    if small is None or isinstance(value, bool) or not isinstance(value, int):
        return _UNSET.get(name) if value is None else None
    return small if value > small or "token_id" in name or "layer" in name else None


def _fewer(name: str, values: Any, layers: int) -> list[Any]:
    """As many values as layers are kept, with every kind among them.

    The kinds of attention take turns, all others (experts or none) stand in blocks: so that each
    kind of the one meets each of the other.
    """
    kinds = [value for index, value in enumerate(values) if value not in values[:index]]
    if len(kinds) == len(values):
        return list(values[:layers])
    if _CYCLED.match(name):
        return [kinds[layer % len(kinds)] for layer in range(layers)]
    return [kinds[layer * len(kinds) // layers] for layer in range(layers)]

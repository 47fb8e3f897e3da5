#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.15.0.
#
# Expected: forward with a cache and one new token, and no position_ids, goes on at the cache's length, as Llama's does.
# Seen: Bamba counts positions from 0 at every call, so that its attention layers rotate the new token as if it were the
# first of the text, and the step's logits are wrong. With position_ids they are right. generate gives position_ids and
# so doesn't show it. No error and no warning.
#
# Whom it bites: whoever decodes by hand, or scores behind a kept prefix, as is done with Llama.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import BambaConfig, BambaForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BAMBA = {
    "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8,
    "mamba_chunk_size": 8, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}


def made(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for each in model.parameters():
            if each.ndim == 2:
                each.mul_(6)
    return model


def off(model, **given):
    """How far a cached step is from the plain forward of the whole text, in the logits' deviation."""
    ids = torch.arange(3, 23)[None]
    right = model(input_ids=ids, use_cache=False).logits[0, -1]
    cache = DynamicCache(config=model.config)
    model(input_ids=ids[:, :-1], cache=cache, use_cache=True)
    step = model(input_ids=ids[:, -1:], cache=cache, use_cache=True, **given).logits[0, -1]
    return float((step - right).abs().max() / right.std())


with torch.inference_mode():
    llama = off(made(LlamaForCausalLM, LlamaConfig(**SIZES)))
    bamba = made(BambaForCausalLM, BambaConfig(**SIZES, **BAMBA))
    plain, told = off(bamba), off(bamba, position_ids=torch.tensor([[19]]))
print(f"a cached step is off by: Llama {llama:.1g}; Bamba {plain:.2g}, with position_ids {told:.1g}")
assert llama < 1e-4 and told < 1e-4 and plain > 0.05, "this behaviour has changed"
PY

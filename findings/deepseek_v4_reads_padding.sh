#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): DeepSeek V4, a batch that is padded on the left.
#
# Expected: with an attention mask, and positions that begin at each text's first token, a text of a left-padded batch
# has the logits that it has alone. generate() is asked in this way, and other sparse or compressed models hold to it.
# Seen: the layers that compress keys and values make one entry of each 4 or 128 neighbouring places of the *padded* row.
# They are given no mask. So entries hold padding tokens, and where a text's blocks begin depends on how much padding
# stands before it. Layers with a sliding window alone are right, and so is padding on the right. Nothing raises or
# warns. Which tokens generate() writes for a text depends on the longest text of its batch.
#
# Whom it bites: whoever generates or scores in batches. Compare rows of one length, pad on the right, or one at a time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import warnings

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, LlamaConfig, LlamaForCausalLM

PAD = 0
SHORT = [1 + (37 * place) % 90 for place in range(40)]
LONG = [1 + (37 * place) % 90 for place in range(300)]
SIZES = dict(vocab_size=100, hidden_size=64, num_attention_heads=4, initializer_range=0.2)


def deepseek(kind):
    return DeepseekV4ForCausalLM(DeepseekV4Config(
        **SIZES, num_hidden_layers=4, layer_types=[kind] * 4, moe_intermediate_size=32, head_dim=32, q_lora_rank=32,
        n_routed_experts=4, num_experts_per_tok=2, o_groups=2, o_lora_rank=16, index_n_heads=2, index_head_dim=16,
        hc_mult=2))


def padded(row, before, after):
    ids = torch.tensor([[PAD] * before + row + [PAD] * after])
    places = torch.arange(ids.shape[1])
    mask = ((places >= before) & (places < before + len(row))).long()[None]
    return ids, mask


def logprobs(model, row, before=0, after=0):
    ids, mask = padded(row, before, after)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.logits[0, before : before + len(row)].log_softmax(-1)


def written(model, row, before):
    ids, mask = padded(row, before, 0)
    asked = dict(do_sample=False, max_new_tokens=8, min_new_tokens=8, pad_token_id=PAD, eos_token_id=1)
    return model.generate(ids, attention_mask=mask, **asked)[0, before + len(row) :].tolist()


torch.manual_seed(0)
models = {
    "Llama": (LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=64, num_hidden_layers=2)), SHORT),
    "sliding window": (deepseek("sliding_attention"), SHORT),
    "blocks of 4": (deepseek("compressed_sparse_attention"), SHORT),
    "blocks of 128": (deepseek("heavily_compressed_attention"), LONG),
}
moved, same = {}, {}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for name, (model, row) in models.items():
        model.eval()
        alone = logprobs(model, row)
        left = [float((logprobs(model, row, before=n) - alone).abs().max()) for n in (3, 4, 128)]
        right = float((logprobs(model, row, after=5) - alone).abs().max())
        same[name] = written(model, row, 0) == written(model, row, 3)
        moved[name] = left, right
        print(f"{name}: {', '.join(f'{each:.1g}' for each in left)} nats from alone with 3, 4 and 128 tokens of padding "
              f"on the left, {right:.1g} on the right; generate() writes {'the same' if same[name] else 'other tokens'}")
print("warnings about padding:", [str(each.message) for each in said if "pad" in str(each.message)])
assert not any("pad" in str(each.message) for each in said)
for name, (left, right) in moved.items():
    is_compressed = name.startswith("blocks")
    assert all(each > 0.3 if is_compressed else each < 1e-3 for each in left), name
    assert right < 1e-3, name
    assert same[name] or is_compressed, name
assert not same["blocks of 4"]
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

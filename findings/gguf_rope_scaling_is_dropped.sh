#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0 and torch 2.15.0.
#
# Expected: from_pretrained(..., gguf_file=...) loads the model that the file describes, or says what it leaves out. A
# GGUF file names its rotary scaling in llama.rope.scaling.type and .factor.
# Seen: only GPT-OSS files have these fields read. A Llama file with linear scaling by 4 becomes a model with the default
# rotary embedding: the first position agrees, each later one is wrong by as much as if the scaling weren't there.
# No error and no warning.
#
# Whom it bites: whoever takes a long-context GGUF file as the "quantised copy" of a model and measures its distance.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import warnings

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HEADS, HIDDEN, LAYERS, VOCAB, LENGTH = 4, 32, 2, 64, 128


def model(**rope):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        max_position_embeddings=LENGTH, tie_word_embeddings=False, rope_parameters={"rope_theta": 10000.0, **rope},
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for each in made.parameters():
            if each.ndim > 1:
                each.mul_(6)
    return made


def write(made, path):
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(LENGTH)
    file.add_embedding_length(HIDDEN)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(64)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_dimension_count(HIDDEN // HEADS)
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(VOCAB)
    file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    file.add_rope_scaling_factor(4.0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in made.state_dict().items():
        rows = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # the format keeps the halves of a rotary pair side by side
            rows = rows.reshape(HEADS, 2, -1, HIDDEN).swapaxes(1, 2).reshape(HIDDEN, HIDDEN)
        file.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(rows))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


scaled, plain = model(rope_type="linear", factor=4.0), model(rope_type="default")
write(scaled, "model.gguf")
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    loaded = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf").eval()
tokens = torch.arange(3, 43)[None]
with torch.inference_mode():
    right, without, got = (each(tokens).logits for each in (scaled, plain, loaded))
print("rope of the loaded model:", loaded.config.rope_parameters)
print("distance at position 0, of all, from the model without scaling:",
      *(f"{float(each.abs().max()):.3g}" for each in ((got - right)[0, 0], got - right, got - without)))
assert loaded.config.rope_parameters["rope_type"] == "default"
assert not [one for one in warned if "rope" in str(one.message)]
assert (got - right)[0, 0].abs().max() < 1e-4 < 0.5 < (got - right).abs().max()
assert (got - without).abs().max() < 1e-4
print("as described: the scaling in the file is dropped")
PY

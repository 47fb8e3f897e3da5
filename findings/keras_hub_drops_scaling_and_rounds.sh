#!/usr/bin/env bash
# keras-hub 0.32.0 (keras 3.15.1 on torch 2.15.0) reading folders that transformers 5.24.0 saved.
#
# Expected: Backbone.from_preset(FOLDER) is the model of the folder, in the precision asked for, or refuses what it can't do.
# Seen: Llama's rotary scaling is looked for as rope_scaling alone. transformers 5 writes it into rope_parameters, from
# which only the base is taken: Llama 3.1's scaling is dropped, and so is the linear one, which the old name gets refused.
# With the old name the "llama3" scaling is read, and right. And Mistral's converter rounds each matrix to float16 on the way,
# in float32 too: what a fine-tuned or merged model has beyond that is lost. Qwen 3 and Gemma 2 are right to rounding. No
# error, no warning.
# (keras-hub is installed without tensorflow-text, which only its tokenizers need.)
#
# Whom it bites: whoever goes on in Keras with a model that transformers saved again, after training or merging.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0 keras==3.15.1 kagglehub==1.0.3 sentencepiece regex
"$work/venv/bin/pip" install --quiet --no-deps keras-hub==0.32.0
cd "$work"
cat >seen.py <<'PY'
import json
import warnings
from pathlib import Path

import keras_hub
import numpy as np
import torch
from transformers import (
    Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config,
    Qwen3ForCausalLM)

IDS = np.array([[1 + (37 * place) % 90 for place in range(60)]])
SIZES = dict(vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, initializer_range=0.2)
SCALED = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)
hub = keras_hub.models


def llama(**more):
    return LlamaForCausalLM(LlamaConfig(**SIZES, **more)), hub.Llama3Backbone


MODELS = {
    "Llama": llama(),
    "Llama, llama3": llama(rope_parameters=SCALED),
    "Llama, linear": llama(rope_parameters=LINEAR),
    "Mistral": (MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)), hub.MistralBackbone),
    "Qwen 3": (Qwen3ForCausalLM(Qwen3Config(**SIZES)), hub.Qwen3Backbone),
    "Gemma 2": (Gemma2ForCausalLM(Gemma2Config(**SIZES, query_pre_attn_scalar=16)), hub.GemmaBackbone),
}


def of_transformers(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(IDS), use_cache=False).logits.log_softmax(-1).numpy()


def of_keras(backbone):
    with torch.no_grad():
        hidden = backbone({"token_ids": IDS, "padding_mask": np.ones_like(IDS)})
        return torch.log_softmax(backbone.token_embedding(hidden, reverse=True), -1).numpy()


def renamed(folder):
    """The settings as they were written before transformers 5."""
    path = Path(folder, "config.json")
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    path.write_text(json.dumps(config | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}))


off = {}
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for name, (model, backbone) in MODELS.items():
        model.save_pretrained(name)
        read = backbone.from_preset(name, dtype="float32")
        off[name] = float(np.abs(of_keras(read) - of_transformers(model)).max())
        print(f"{name}: {off[name]:.2g} nats from transformers")
    model, backbone = MODELS["Llama, llama3"]
    renamed("Llama, llama3")
    off["old name"] = float(np.abs(of_keras(backbone.from_preset("Llama, llama3")) - of_transformers(model)).max())
print(f"Llama, llama3, with the old name: {off['old name']:.2g}")
said = [str(each.message) for each in warned if "rope" in str(each.message) or "float16" in str(each.message)]
print("said about it:", said)
model, backbone = MODELS["Mistral"]
matrix = model.model.embed_tokens.weight.detach().numpy()
kept = backbone.from_preset("Mistral", dtype="float32").token_embedding.embeddings
kept = kept.value.detach().numpy()
print("Mistral's embedding is that of the folder:", np.array_equal(kept, matrix), "or as float16:",
      np.array_equal(kept, matrix.astype(np.float16).astype(np.float32)))
try:
    renamed("Llama, linear")
    MODELS["Llama, linear"][1].from_preset("Llama, linear")
    refused = False
except ValueError as error:
    refused = True
    print("the old name of the linear one:", error)
assert not said and refused
assert np.array_equal(kept, matrix.astype(np.float16)) and not np.array_equal(kept, matrix)
for name in ("Llama", "old name", "Qwen 3", "Gemma 2"):
    assert off[name] < 1e-3, name
assert 2e-3 < off["Mistral"] < 0.5
assert off["Llama, llama3"] > 0.5 and off["Llama, linear"] > 0.5
print("as described")
PY
KERAS_BACKEND=torch CUDA_VISIBLE_DEVICES="" "$work/venv/bin/python" seen.py

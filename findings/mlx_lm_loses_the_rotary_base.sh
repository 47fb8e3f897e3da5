#!/usr/bin/env bash
# mlx-lm 0.32.2 (mlx 0.32.4 on a Linux CPU) with a folder that transformers 5.24.0 saved (torch 2.15.0).
#
# Expected: mlx-lm requires transformers 5.7 or newer, so it reads what transformers 5 writes, or refuses what it can't.
# transformers 5 writes the rotary base and scaling as rope_parameters only. Some of mlx-lm's model files know that
# (Qwen3's), some miss rope_theta and raise a TypeError (OLMo 3's).
# Seen: most others, Llama's first, look for rope_theta and rope_scaling alone and have defaults for them. A Llama 3 that
# transformers saved, for instance a merged adapter, gets the base 10000 in place of 500000 and no scaling: position 0
# agrees, all others are off, without an error or a warning. With the two old fields added to config.json all are right.
# Keys of config.json that a model file doesn't name are dropped unread.
#
# Whom it bites: whoever fine-tunes or merges with transformers and then runs, quantises or scores the result with mlx-lm:
# the distance that is measured is the rotary embedding's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import json
import pathlib

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from transformers import AutoConfig, AutoModelForCausalLM

PROMPT = [list(range(3, 60))]
SIZES = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=256, pad_token_id=0, bos_token_id=1,
             eos_token_id=2)
PLAIN = {"rope_type": "default", "rope_theta": 500000.0}
LLAMA3 = PLAIN | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
CASES = [("llama", PLAIN), ("llama", LLAMA3), ("llama", LINEAR), ("mistral", PLAIN), ("mixtral", PLAIN),
         ("qwen2", PLAIN), ("gemma2", PLAIN), ("olmo2", PLAIN), ("qwen3", PLAIN), ("qwen3", LINEAR)]


def distance(expected):
    model, _ = load_model(pathlib.Path("model"))
    found = np.array(model(mx.array(PROMPT)).astype(mx.float32))[0]
    each = np.abs(found - expected).max(-1)
    return each[0], each.max()


def save(family, rope):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, rope_parameters=dict(rope))).eval()
    with torch.no_grad():
        for each in model.parameters():
            if each.ndim > 1:
                each.mul_(4)
    model.save_pretrained("model")
    loaded = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32).eval()
    with torch.no_grad():
        return loaded(input_ids=torch.tensor(PROMPT)).logits[0].numpy()


for family, rope in CASES:
    expected = save(family, rope)
    first, as_saved = distance(expected)
    path = pathlib.Path("model/config.json")
    config = json.loads(path.read_text())
    assert "rope_theta" not in config and config["rope_parameters"]["rope_theta"] == rope["rope_theta"]
    config["rope_theta"] = rope["rope_theta"]
    if rope["rope_type"] != "default":
        config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    path.write_text(json.dumps(config))
    mended = distance(expected)[1]
    print(f"{family}, {rope['rope_type']}: logits of spread {expected.std():.2g} are off by {as_saved:.2g} at most, "
          f"at the first position by {first:.2g}, with the two old fields by {mended:.2g}", flush=True)
    assert first < 1e-3 and mended < 1e-3
    assert as_saved < 1e-3 if family == "qwen3" else as_saved > 0.02, family
print("as described")
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

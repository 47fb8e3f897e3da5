#!/usr/bin/env bash
# mergekit 0.1.5 (peft 0.21.2, transformers 5.24.0, torch 2.15.0): mergekit-extract-lora at a rank that is full.
#
# Expected: put on its base, an adapter that was extracted at full rank gives the fine-tuned model, or the command says
# what it left out.
# Seen: this holds of Llama and Gemma 2. Of Qwen2, whose projections have biases, the differences of the biases are in the
# adapter's file, as lora_B.bias, but its configuration doesn't set lora_bias, and PEFT reads past them. With that one
# word set in adapter_config.json the adapter is right. Of Mixtral the experts, which transformers 5 keeps in one tensor
# for all, aren't modules of a kind that the command looks for, and are left out. Neither it nor PEFT names a bias or an
# expert.
#
# Whom it bites: whoever extracts adapters of fine-tuned models, to store them or to compare them with trained ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mergekit==0.1.5 peft==0.21.2 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MixtralConfig, Qwen2Config

IDS = torch.tensor([[1 + (37 * place) % 90 for place in range(20)]])
SIZES = dict(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
KINDS = {
    "Llama": LlamaConfig(**SIZES),
    "Gemma 2": Gemma2Config(**SIZES, head_dim=8),
    "Qwen2": Qwen2Config(**SIZES),
    "Mixtral": MixtralConfig(**SIZES, num_local_experts=4),
}


def logprobs(model):
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits.log_softmax(-1)


def moved(model, size):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return model


def with_adapter(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = logprobs(PeftModel.from_pretrained(model, adapter))
    return found, " ".join(str(each.message) for each in warned)


off, repaired, said, biases = {}, {}, {}, {}
for kind, config in KINDS.items():
    torch.manual_seed(0)
    base, tuned, adapter = (str(Path.cwd() / f"{config.model_type}-{part}") for part in ("base", "tuned", "adapter"))
    model = moved(AutoModelForCausalLM.from_config(config, dtype=torch.float32), 0.1)
    model.save_pretrained(base)
    want = logprobs(moved(model, 0.1))
    model.save_pretrained(tuned)
    run = subprocess.run(
        [Path(sys.executable).with_name("mergekit-extract-lora"), "--model", tuned, "--base-model", base,
         "--out-path", adapter, "--max-rank", "100"],
        check=True, capture_output=True, text=True,
    )
    found, warned = with_adapter(base, adapter)
    off[kind] = float((found - want).abs().max())
    said[kind] = (run.stdout + run.stderr + warned).lower()
    with safe_open(f"{adapter}/adapter_model.safetensors", "pt") as file:
        biases[kind] = sum(name.endswith("lora_B.bias") for name in file.keys())
    path = Path(adapter) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_bias": bool(biases[kind])}))
    repaired[kind] = float((with_adapter(base, adapter)[0] - want).abs().max())
    print(f"{kind}: {off[kind]:.2g} nats off, {biases[kind]} biases in the file; with lora_bias {repaired[kind]:.2g}")
for kind in KINDS:
    assert (off[kind] > 0.5) is (kind in {"Qwen2", "Mixtral"}), kind
    assert off[kind] > 0.5 or off[kind] < 1e-3, kind
    assert bool(biases[kind]) is (kind == "Qwen2"), kind
    assert (repaired[kind] > 0.5) is (kind == "Mixtral"), kind
assert "bias" not in said["Qwen2"] and "expert" not in said["Mixtral"]
print("as described")
PY
TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$work/venv/bin/python" seen.py

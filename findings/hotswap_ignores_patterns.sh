#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.24.0, torch 2.15.0): hotswap_adapter of a LoRA with rank_pattern or alpha_pattern.
#
# Expected: after swapping one adapter for another of the same settings the model is the one that from_pretrained gives
# with the other; its check of the two configurations refuses what can't be swapped. What is then saved is the new one.
# Seen: the patterns are compared with names that end in ".lora_A.default.weight", which no pattern matches, so every
# layer is scaled by the general alpha / r. Where patterns are used, the swapped adapter is another one, also if it is
# swapped for itself. And the model's configuration stays that of the old adapter: what save_pretrained writes has the
# new matrices and the old alpha. Neither raises or warns.
#
# Whom it bites: servers that swap many adapters through one model, and whoever evaluates them there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import copy

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

IDS = torch.tensor([[1, 2, 3, 4, 5]])
SETTINGS = {
    "no pattern, the same alpha": ({}, {}),
    "no pattern, another alpha": ({"lora_alpha": 4}, {"lora_alpha": 16}),
    "a rank_pattern": ({"rank_pattern": {"v_proj": 2}},) * 2,
    "an alpha_pattern": ({"alpha_pattern": {"q_proj": 30}},) * 2,
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def saved(base, seed, folder, **settings):
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **settings)
    model = get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return logits(model)


def apart(model, expected):
    return float((logits(model) - expected).abs().max())


torch.manual_seed(0)
sizes = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
base = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
found = {}
for name, (first, second) in SETTINGS.items():
    saved(base, 1, "first", **first)
    expected = saved(base, 2, "second", **second)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), "second").eval()
    model = PeftModel.from_pretrained(copy.deepcopy(base), "first").eval()
    hotswap_adapter(model, "second", adapter_name="default")
    model.save_pretrained("again")
    again = PeftModel.from_pretrained(copy.deepcopy(base), "again").eval()
    found[name] = apart(loaded, expected), apart(model, expected), apart(again, expected)
    print(f"{name}: from the new adapter are, loaded {found[name][0]:.2g}, swapped in {found[name][1]:.2g}, "
          f"swapped in and saved {found[name][2]:.2g}")
NOTHING, MUCH = 1e-5, 0.02
assert all(loaded < NOTHING for loaded, _, _ in found.values())
assert max(found["no pattern, the same alpha"]) < NOTHING
assert found["no pattern, another alpha"][1] < NOTHING and found["no pattern, another alpha"][2] > MUCH
assert found["a rank_pattern"][1] > MUCH and found["an alpha_pattern"][1] > MUCH
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

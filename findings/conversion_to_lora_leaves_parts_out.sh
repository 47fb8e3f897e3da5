#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.24.0, torch 2.15.0): convert_to_lora and save_as_lora of DoRA and of LoRA with a bias.
#
# Expected: what a LoRA can't say is refused. So it is for adapters of bias="all" (ValueError) and of methods that are
# no change of a linear layer's weights (TypeError); DoRA's change depends on the base weights in a way that the change
# of LoRA doesn't, and a trained bias is no matrix.
# Seen: both are converted, at full rank too, without a word of what is lost: of DoRA its magnitudes, of the other
# (lora_bias=True) its bias. The saved LoRA loads and gives another model. Plain LoRA and LoKr come out as they were.
# Merging knows both parts: merge_and_unload of the two adapters is right.
#
# Whom it bites: whoever converts adapters for an engine that knows LoRA alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import copy
import warnings

import torch
from peft import LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import save_as_lora
from transformers import LlamaConfig, LlamaForCausalLM

IDS = torch.tensor([[1, 2, 3, 4, 5]])
WIDTH = 32
KINDS = {
    "LoKr": LoKrConfig,
    "LoRA": LoraConfig,
    "DoRA": lambda **settings: LoraConfig(use_dora=True, **settings),
    "LoRA with a bias": lambda **settings: LoraConfig(lora_bias=True, **settings),
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


torch.manual_seed(0)
sizes = dict(vocab_size=100, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
             attention_bias=True)
base = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
found, said = {}, {}
for kind, config in KINDS.items():
    model = get_peft_model(copy.deepcopy(base), config(r=4, target_modules=["q_proj", "v_proj"])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted = logits(model)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        save_as_lora("converted", model, rank=WIDTH, progressbar=False)
    said[kind] = [str(each.message) for each in warned if "already a LoRA" not in str(each.message)]
    converted = PeftModel.from_pretrained(copy.deepcopy(base), "converted").eval()
    merged = model.merge_and_unload()
    found[kind] = [float((adapted - logits(each)).abs().max()) for each in (base, converted, merged)]
    print(f"{kind}: moves logits by {found[kind][0]:.2g}; converted it is {found[kind][1]:.2g} off, "
          f"merged {found[kind][2]:.2g}")
print("warnings, but for that a LoRA is one already:", said)
assert not any(said.values())
for kind, (moved, converted, merged) in found.items():
    assert merged < 1e-5
    assert converted > 0.02 * moved if kind in {"DoRA", "LoRA with a bias"} else converted < 1e-5, kind
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

#!/usr/bin/env bash
# peft 0.21.2 merging adapters into a quantised base: bitsandbytes 0.50.2, hqq 0.2.8.post1, torchao 0.18.0 (transformers
# 5.24.0, torch 2.15.0, on a CPU).
#
# Expected: what can't be merged is refused, and the rest differs from the unmerged model by the rounding of the weights,
# which at 8 bits is small. So it is for plain LoRA on all of these, on hqq in layers without a bias.
# Seen: four things come out as another model, without an error or a warning that says so.
# - hqq: the layer that takes the merged weights is made without a bias. A layer that has one (as q, k and v of Qwen2 do)
#   loses it with any adapter, and unmerging doesn't bring it back: the base model itself is another one then.
# - torchao: DoRA works unmerged, but merging adds the plain product of its two matrices; the magnitudes have no part in it.
# - bitsandbytes: a LoRA's own bias (lora_bias=True) is added as it is, where the forward scales it by alpha / r.
# - bitsandbytes, 8 bits: RandLoRA's two matrices are multiplied in the other order than in the forward. In a layer that
#   isn't square this fails; in a square one (q and o of many models) whose width r divides, the product has the right
#   shape and wrong values.
# In an unquantised base all of it is right.
#
# Whom it bites: whoever trains on a quantised base and merges for the release, or to score faster: the merged model is
# taken for the one that was trained.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 torch==2.15.0 bitsandbytes==0.50.2 \
    hqq==0.2.8.post1 torchao==0.18.0 accelerate==1.15.0
cd "$work"
cat >seen.py <<'PY'
import logging

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from peft import LoraConfig, RandLoraConfig, get_peft_model
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TorchAoConfig

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
TARGETS = ["q_proj", "v_proj"]
IDS = torch.tensor([list(range(3, 40))])
KINDS = {
    "LoRA": lambda: LoraConfig(r=4, lora_alpha=16, target_modules=TARGETS),
    "DoRA": lambda: LoraConfig(r=4, lora_alpha=16, use_dora=True, target_modules=TARGETS),
    "LoRA with a bias": lambda: LoraConfig(r=4, lora_alpha=16, lora_bias=True, target_modules=TARGETS),
    "LoRA in a layer without a bias": lambda: LoraConfig(r=4, lora_alpha=16, target_modules=["up_proj"]),
    "RandLoRA": lambda: RandLoraConfig(r=4, target_modules=TARGETS),
}
TRIED = {  # and whether merging is right
    "unquantised": dict.fromkeys(KINDS, True),
    "bitsandbytes": {"LoRA": True, "LoRA with a bias": False, "RandLoRA": False},
    "torchao": {"LoRA": True, "DoRA": False},
    "hqq": {"LoRA in a layer without a bias": True, "LoRA": False},
}


def load(**options):
    return AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32, **options).eval()


def in_8_bits():
    settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return load(quantization_config=settings, device_map="cpu")


def with_hqq():
    model = load()
    settings = BaseQuantizeConfig(nbits=8, group_size=32, axis=1)
    for layer in model.model.layers:
        for owner, name in ((layer.self_attn, "q_proj"), (layer.self_attn, "v_proj"), (layer.mlp, "up_proj")):
            linear = getattr(owner, name)
            setattr(owner, name, HQQLinear(linear, settings, compute_dtype=torch.float32, device="cpu"))
    return model


BASES = {
    "unquantised": load,
    "bitsandbytes": in_8_bits,
    "torchao": lambda: load(quantization_config=TorchAoConfig(Int8WeightOnlyConfig())),
    "hqq": with_hqq,
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def apart(left, right):
    return float((left - right).abs().mean())


torch.manual_seed(0)
sizes = dict(vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
made = LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True))
with torch.no_grad():
    for name, parameter in made.named_parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.3)
made.save_pretrained("model")

for base, kinds in TRIED.items():
    for kind, right in kinds.items():
        model = BASES[base]()
        alone = logits(model)
        model = get_peft_model(model, KINDS[kind]()).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        adapted = logits(model)
        effect = apart(adapted, alone)
        model.merge_adapter()
        merged = apart(logits(model), adapted) / effect
        model.unmerge_adapter()
        with model.disable_adapter():
            back = apart(logits(model), alone) / effect
        print(f"{base}, {kind}: merged it is off by {merged:.1%} of what the adapter does; unmerged and disabled, by "
              f"{back:.1%}", flush=True)
        assert merged < 0.1 if right else merged > 0.3
        assert back > 0.3 if (base, kind) == ("hqq", "LoRA") else back < 0.1 or kind == "RandLoRA"
print("as described")
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" -W ignore seen.py

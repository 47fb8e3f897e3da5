#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.24.0, torch 2.15.0): add_weighted_adapter of one LoRA with weight 1.
#
# Expected: one adapter with weight 1 is that adapter; weight 0.5 is half of it. What can't be combined is refused, as
# unequal ranks are.
# Seen: this holds of plain LoRA. Of rank-stabilised LoRA the new adapter is the old one times the square root of the
# rank, since alpha is set to the rank while the copied setting goes on dividing by its root. Of DoRA only the two
# matrices are taken and magnitudes begin anew; a trained bias (lora_bias) and whole modules (modules_to_save) are left
# at what they were before training. None of it raises or warns, and the result is saved and loaded as it is. Of LoRA
# with a rank_pattern it is right in memory, but what was saved of it can't be loaded.
#
# Whom it bites: whoever scales or mixes adapters in this way, and measures what a strength or a mixture does.
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
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

IDS = torch.tensor([[1, 2, 3, 4, 5]])
RANK = 9
KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "with a bias": {"lora_bias": True},
    "with a whole norm": {"modules_to_save": ["norm"]},
    "with a rank_pattern": {"rank_pattern": {"v_proj": 2}},
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def deltas(model, name):
    return [each.get_delta_weight(name) for each in model.modules() if name in getattr(each, "lora_A", {})]


torch.manual_seed(0)
sizes = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
             attention_bias=True)
base = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
apart, said, factors, loads = {}, [], {}, {}
for kind, settings in KINDS.items():
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "v_proj"], **settings)
    model = get_peft_model(copy.deepcopy(base), config, adapter_name="trained").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    trained = logits(model)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model.add_weighted_adapter(["trained"], [1.0], "weighted", combination_type="cat")
    said += [str(each.message) for each in warned]
    model.set_adapter("weighted")
    apart[kind] = float((logits(model) - trained).abs().max()), float((trained - logits(base)).abs().max())
    old, new = (deltas(model, name)[0].detach() for name in ("trained", "weighted"))
    factors[kind] = float(new.norm() / old.norm())
    model.save_pretrained("saved", selected_adapters=["weighted"])
    try:
        PeftModel.from_pretrained(copy.deepcopy(base), "saved/weighted")
        loads[kind] = True
    except RuntimeError:
        loads[kind] = False
    print(f"{kind}: {apart[kind][0]:.2g} from the adapter, which moves logits by {apart[kind][1]:.2g}; "
          f"its change of the weights times {factors[kind]:.3f}; {'loads' if loads[kind] else 'does not load'} again")
print("warnings:", said)
assert not said
for kind, (off, moved) in apart.items():
    is_right = kind in {"plain", "with a rank_pattern"}
    assert off < 1e-4 if is_right else off > 0.02 * moved, kind
assert abs(factors["rank-stabilised"] - RANK**0.5) < 0.01
assert [kind for kind, does in loads.items() if not does] == ["with a rank_pattern"]
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

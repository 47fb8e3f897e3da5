#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.24.0, torch 2.15.0): two adapters of one method active at once, and merged.
#
# Expected: merge_and_unload(adapter_names=["a", "b"]) gives the model that runs with set_adapter(["a", "b"]), since
# merging is to change no output; what can't have two adapters active refuses, as LN tuning does.
# Seen: this holds of most methods, with LoRA, LoHa and HRA here (of HRA the order counts, in both). C3A feeds what the
# first adapter made to the second, so b hardly counts, while merging adds both to the weight. OFT turns by a then b
# when it runs and by b then a when it is merged: it is the model of ["b", "a"]. OSF runs the first one alone, exactly,
# and merges both. One adapter alone is right in all. Nothing raises or warns.
#
# Whom it bites: whoever stacks adapters and measures the merged model in place of the one that was tuned, or the reverse.
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
from peft import C3AConfig, HRAConfig, LoHaConfig, LoraConfig, OFTConfig, OSFConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

IDS = torch.tensor([[1 + (37 * place) % 90 for place in range(20)]])
ON = dict(target_modules=["q_proj", "v_proj"])
KINDS = {
    "LoRA": lambda: LoraConfig(r=4, **ON),
    "LoHa": lambda: LoHaConfig(r=4, **ON),
    "HRA": lambda: HRAConfig(r=4, **ON),
    "C3A": lambda: C3AConfig(block_size=16, **ON),
    "OFT": lambda: OFTConfig(r=0, oft_block_size=4, **ON),
    "OSF": lambda: OSFConfig(**ON),
}


def logprobs(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits.log_softmax(-1)


def apart(one, other):
    return float((one - other).abs().max())


def train(model, name, seed):
    """Move the adapter that is active, as training does."""
    model.set_adapter(name)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)


def running(model, names):
    model.base_model.set_adapter(names)
    return logprobs(model)


def merged(model, names):
    return logprobs(copy.deepcopy(model).merge_and_unload(adapter_names=names))


torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    initializer_range=0.2))
seen = {}
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for kind, config in KINDS.items():
        model = get_peft_model(copy.deepcopy(base), config(), adapter_name="a")
        train(model, "a", 1)
        model.add_adapter("b", config())
        train(model, "b", 2)
        both, reverse = running(model, ["a", "b"]), running(model, ["b", "a"])
        seen[kind] = {
            "one": apart(running(model, ["a"]), merged(model, ["a"])),
            "both": apart(both, merged(model, ["a", "b"])),
            "reverse": apart(reverse, merged(model, ["a", "b"])),
            "first": apart(both, running(model, ["a"])),
        }
        found = seen[kind]
        print(f"{kind}: merged is {found['both']:.1g} nats from running a and b, {found['reverse']:.1g} from b and a, with "
              f"one adapter {found['one']:.1g}; beside a, b moves the model by {found['first']:.1g}")
words = [str(each.message) for each in warned if "merg" in str(each.message) or "active" in str(each.message)]
print("said about merging or several adapters:", words)
assert not words
for kind, found in seen.items():
    assert found["one"] < 1e-3, kind
    assert (found["both"] > 0.1) is (kind in {"C3A", "OFT", "OSF"}), kind
    assert (found["reverse"] > 0.1) is (kind in {"HRA", "C3A", "OSF"}), kind
    assert (found["first"] == 0.0) is (kind == "OSF"), kind
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

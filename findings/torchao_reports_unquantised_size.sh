#!/usr/bin/env bash
# torchao 0.18.0 with torch 2.15.0 and transformers 5.24.0.
#
# Expected: after quantize_(model, Int8WeightOnlyConfig()) the model's size, as get_memory_footprint(), Tensor.nbytes and
# untyped_storage().nbytes() tell it, is that of what is held: one byte a weight and the scales.
# Seen: all three go on telling the float32 size, and dtype stays float32, while the state on disk has shrunk. A weight's
# data_ptr() is 0 for every layer, and its version counter does not move when the int8 data that it holds is written.
#
# Whom it bites: tables of "memory against divergence", budgets in bytes, and caches that tell weights apart by pointer
# and version.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 torchao==0.18.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import io

import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import LlamaConfig, LlamaForCausalLM


def told(model):
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return {
        "footprint": model.get_memory_footprint(),
        "nbytes": sum(each.nbytes for each in weights),
        "storage": sum(each.untyped_storage().nbytes() for each in weights),
        "dtype": {str(each.dtype) for each in weights},
        "saved": buffer.tell(),
    }


model = LlamaForCausalLM(
    LlamaConfig(vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
                tie_word_embeddings=False)
).eval()
before = told(model)
quantize_(model, Int8WeightOnlyConfig())
after = told(model)
print("before", before)
print("after ", after)
assert all(after[name] == before[name] for name in ("footprint", "nbytes", "storage", "dtype"))
assert after["saved"] < 0.5 * before["saved"]

layers = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
pointers = {each.data_ptr() for each in layers}
weight = layers[0]
held, version = weight.qdata, weight._version
with torch.no_grad():
    held.add_(1)
print("pointers of", len(layers), "weights:", pointers, "| version of a weight whose data was written:",
      version, "->", weight._version, "| of the data:", held._version)
assert pointers == {0}
assert weight._version == version and held._version > 0
print("as described: sizes, pointers and versions are not those of what is held")
PY

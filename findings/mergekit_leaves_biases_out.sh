#!/usr/bin/env bash
# mergekit 0.1.5 (transformers 5.24.0, torch 2.15.0): merging models whose configuration turns biases on.
#
# Expected: a merge of one model with weight 1 is that model, whichever of its settings are on, or it is refused.
# Seen: mergekit has lists of the weights of the families that it knows, and those of Llama, Qwen3, Gemma and Gemma 2
# have no biases, Phi's has no norms of queries and keys. With attention_bias, mlp_bias or qk_layernorm on, the merge
# is written without them, while config.json still asks for them. Whoever loads it gets new ones: transformers puts
# zeros for biases and ones for norms, and the logits are far from the model's. mergekit logs nothing; transformers
# lists the missing weights in its report at load. Qwen2 and Granite come out whole, and OLMo, which mergekit has no
# list for: there it takes what is in the files.
#
# Whom it bites: whoever merges such checkpoints (there are Llamas with both kinds of bias) and puts the difference down
# to the merge.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mergekit==0.1.5 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import logging

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    OlmoConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

IDS = torch.tensor([[1 + (37 * place) % 90 for place in range(20)]])
SIZES = dict(
    vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
WHOLE = {
    "Llama": LlamaConfig(**SIZES),
    "Qwen2, whose biases are always on": Qwen2Config(**SIZES),
    "Granite with both": GraniteConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "OLMo with attention_bias": OlmoConfig(**SIZES, attention_bias=True),
}
CUT = {
    "Llama with attention_bias": LlamaConfig(**SIZES, attention_bias=True),
    "Llama with mlp_bias": LlamaConfig(**SIZES, mlp_bias=True),
    "Qwen3 with attention_bias": Qwen3Config(**SIZES, head_dim=8, attention_bias=True),
    "Gemma with attention_bias": GemmaConfig(**SIZES, head_dim=8, attention_bias=True),
    "Gemma 2 with attention_bias": Gemma2Config(**SIZES, head_dim=8, attention_bias=True),
    "Phi with qk_layernorm": PhiConfig(**SIZES, qk_layernorm=True),
}


class Words(logging.Handler):
    def __init__(self):
        super().__init__(logging.INFO)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def logprobs(model):
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits.log_softmax(-1)


words = Words()
logging.getLogger().addHandler(words)
for number, (name, config) in enumerate((WHOLE | CUT).items()):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(f"model{number}")
    merge = MergeConfiguration.model_validate({
        "merge_method": "linear", "dtype": "float32",
        "models": [{"model": f"model{number}", "parameters": {"weight": 1.0}}],
    })
    quietly = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(merge, f"merged{number}", options=quietly)
    merged, report = AutoModelForCausalLM.from_pretrained(
        f"merged{number}", dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    words.said = [each for each in words.said if "bias" in each or "layernorm" in each or "missing" in each]
    off = float((logprobs(merged) - logprobs(model)).abs().max())
    print(f"{name}: {off:.2g} nats off, missing {len(missing)} {missing[:1]}")
    assert all(".bias" in each or "layernorm" in each for each in missing)
    assert bool(missing) == (name in CUT)
    assert off > 0.1 if name in CUT else off < 1e-4
print("said about them:", words.said)
assert not words.said
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

#!/usr/bin/env bash
# bitsandbytes 0.50.2 with torch 2.15.0 and transformers 5.24.0, on a CPU.
#
# Expected: a causal model that is loaded with load_in_8bit stays causal: logits at a position don't depend on the tokens
# behind it, as in the same model unquantised or in 4 bits.
# Seen: with the default llm_int8_threshold of 6.0 they do. A column of a layer's input is kept out of int8 where any token
# of the forward exceeds the threshold in it, for all tokens. So a token's logits depend on what follows it, and on the other
# rows of its batch. With a threshold of 0.0 nothing of this is seen.
#
# Whom it bites: log-likelihoods (teacher-forced ones see the answer that they score), caches of prefixes, decoding with a
# cache against a whole forward, perplexities that move with the batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 bitsandbytes==0.50.2 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
)
with torch.no_grad():
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.mul_(8.0)  # As large as those of a trained model: some inputs exceed 6.
model.save_pretrained("model")

one = torch.randint(0, 512, (1, 24))
other = one.clone()
other[0, 12:] = torch.randint(0, 512, (12,))


def moved(**options):
    """How far other tokens behind the twelfth move the logits of the first twelve."""
    loaded = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float16, **options).eval()
    with torch.no_grad():
        left, right = (loaded(tokens).logits[0, :12].float() for tokens in (one, other))
    return float((left - right).abs().max())


def eight(threshold):
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    return {"quantization_config": config, "device_map": "cpu"}


found = {"unquantised": moved(), "int8, threshold 0.0": moved(**eight(0.0)), "int8, threshold 6.0": moved(**eight(6.0))}
print(found)
assert found["unquantised"] == 0.0 and found["int8, threshold 0.0"] == 0.0
assert found["int8, threshold 6.0"] > 0.01
print("a token's logits depend on what follows it")
PY

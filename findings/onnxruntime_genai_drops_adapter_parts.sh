#!/usr/bin/env bash
# onnxruntime-genai 0.18.0 (onnxruntime 1.32.0, onnx 1.23.2, onnx-ir 1.1.0) with peft 0.21.2, transformers 5.24.0, torch 2.15.0.
#
# Expected: the model builder, given a PEFT folder (--extra_options adapter_path=...), writes a model that computes what
# the adapted model computes, or names the part of the adapter that it can't take.
# Seen: LoRA on attention and MLP is exact, rank and alpha patterns and rsLoRA scaling too. But DoRA's magnitudes, LoRA's
# trained biases (lora_bias) and LoRA on the token embedding are left out: the builder ends with status 0 and a model
# that is neither the base nor the adapted one, nats away from both, and no line of its output says so. LoRA on the head
# also ends with status 0, and gives a file that onnxruntime refuses to load: it names an output that no node has.
#
# Whom it bites: whoever serves a fine-tuned model this way, and whoever takes the exported model as the adapter's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0 peft==0.21.2 onnx==1.23.2 onnx-ir==1.1.0 \
    onnxruntime==1.32.0 onnxruntime-genai==0.18.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import json
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HEADS, HEAD_SIZE = 4, 32
TOKENS = torch.tensor([[5, 17, 99, 50, 33, 7, 81]])
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=160, hidden_size=HEADS * HEAD_SIZE, intermediate_size=256, num_hidden_layers=2,
                num_attention_heads=HEADS, num_key_value_heads=HEADS, tie_word_embeddings=False,
                bos_token_id=0, eos_token_id=1, pad_token_id=1)
)
with torch.no_grad():
    for each in model.parameters():
        if each.ndim > 1:
            each.mul_(4)
model.save_pretrained("base")
words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(160)}, unk_token="w0"))
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w0").save_pretrained("base")


def adapted(name, **options):
    """The base's and the adapted model's logits; the adapter lies in the folder `name`."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32), LoraConfig(**settings))
    with torch.no_grad():
        for key, each in peft.named_parameters():
            if "lora_B" in key or "lora_embedding" in key:
                each.copy_(0.1 * torch.randn_like(each))
            if "lora_magnitude" in key:
                each.mul_(1.5)
    peft.save_pretrained(name)
    with torch.no_grad():
        tuned = peft.eval()(TOKENS).logits[0]
        with peft.disable_adapter():
            return peft(TOKENS).logits[0], tuned


def exported(name):
    """Logits of what the builder makes of the folder `name`, and all that it said."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "base", "-i", "base", "-o", f"onnx-{name}",
               "-p", "fp32", "-e", "cpu", "--extra_options", f"adapter_path={name}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    session = onnxruntime.InferenceSession(f"onnx-{name}/model.onnx")
    length, feed = TOKENS.shape[1], {}
    for given in session.get_inputs():
        if "past" in given.name:
            feed[given.name] = np.zeros((1, HEADS, 0, HEAD_SIZE), np.float32)
        else:
            kinds = {"input_ids": TOKENS.numpy(), "attention_mask": np.ones((1, length), np.int64),
                     "position_ids": np.arange(length)[None]}
            feed[given.name] = kinds[given.name]
    return torch.tensor(session.run(["logits"], feed)[0][0]), done.stdout + done.stderr


def distance(one, other):
    """Mean KL between the next-token distributions, nats."""
    one, other = one.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((one.exp() * (one - other)).sum(-1).mean())


kept = {"plain": {}, "rslora": {"use_rslora": True}, "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 64}}}
lost = {"dora": {"use_dora": True}, "bias": {"lora_bias": True}, "embedding": {"target_modules": ["q_proj", "embed_tokens"]}}
for number, (name, options) in enumerate({**kept, **lost}.items()):
    base, tuned = adapted(f"adapter{number}", **options)
    found, said = exported(f"adapter{number}")
    print(f"{name:<10} adapted from base {distance(base, tuned):.3f} nats, exported from adapted {distance(tuned, found):.6f},"
          f" from base {distance(base, found):.3f}", flush=True)
    if name in kept:
        assert distance(tuned, found) < 1e-6, name
    else:
        assert distance(tuned, found) > 0.01 < distance(base, found), name
        words = "ignor|unsupport|not support|skip|dora|magnitude|lora.*bias"
        told = [line for line in said.splitlines() if re.search(words, line, re.I) and "PeftWarning" not in line]
        print("    the builder said of it:", told)
        assert not told
adapted("head", target_modules=["q_proj", "lm_head"])
try:
    exported("head")
except Exception as error:
    print(f"head       the builder ended with 0; onnxruntime: {str(error).splitlines()[0]:.200}")
    assert "Invalid model" in str(error) and "/lm_head/MatMul/output_0" in str(error)
else:
    raise AssertionError("a model with LoRA on the head loads")
print("as described: these parts are dropped, without a word")
PY

#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.24.0, torch 2.15.0), LoRA on a tied embedding and head with ensure_weight_tying=True.
#
# Expected: save_pretrained() and from_pretrained() give an adapter back, as they do for a Llama with tied embeddings
# that is adapted in the same way.
# Seen: of GPT-2 the file holds the head's A and B, but the saved configuration names the embedding twice
# (target_modules ["wte", "transformer.wte"]) and the head no more. Loading puts nothing on the head, leaves the two
# tensors of the file aside without an error or a warning, and gives another model than the one that was saved: logits
# are as far from it as those of the base model. Of the Llama the loaded adapter is the saved one, bit for bit.
#
# Whom it bites: whoever trains both tied ends of GPT-2 and evaluates what was saved. Loaders that compare the file's
# names with those on the model see it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import copy
import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

IDS = torch.tensor([[1, 2, 3, 4]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def apart(base, embedding):
    """How far the loaded adapter and the base model are from the adapter that was saved."""
    config = LoraConfig(r=4, target_modules=[embedding, "lm_head"], ensure_weight_tying=True)
    adapted = get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained("saved", save_embedding_layers=False)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), "saved").eval()
    said = [str(each.message) for each in warned if "adapter keys" in str(each.message)]
    names = json.loads(Path("saved/adapter_config.json").read_text())["target_modules"]
    own = logits(adapted)
    found = [float((own - logits(each)).abs().max()) for each in (loaded, base)]
    print(f"{type(base).__name__}: saved target_modules {sorted(names)}; logits of the loaded adapter are "
          f"{found[0]:.2g} from the saved one's, those of the base model {found[1]:.2g}; warnings: {said}")
    return found, said


torch.manual_seed(0)
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=2)).eval()
sizes = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
llama = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **sizes)).eval()
(of_llama, _), (of_gpt2, said) = apart(llama, "embed_tokens"), apart(gpt2, "wte")
assert of_llama[0] == 0.0 < of_llama[1]
assert of_gpt2[0] > 0.1 * of_gpt2[1] > 0.0 and not said
print("as described: of GPT-2 the head's part is gone")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py

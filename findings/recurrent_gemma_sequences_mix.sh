#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.15.0.
#
# Expected: a cache object holds all that a sequence needs, so two sequences with a cache each can decode in turn.
# Seen: RecurrentGemma keeps its recurrent and convolution states in its own modules, and only its attention in the
# cache that it is given. A sequence alone is right; one that goes on after another has run reads the other's states, by
# several deviations of the logits. No error and no warning.
#
# Whom it bites: servers and scorers that hold several requests' caches for one model, and whoever keeps a prefix.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, RecurrentGemmaConfig, RecurrentGemmaForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def made(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for each in model.parameters():
            if each.ndim == 2:
                each.mul_(6)
    return model


def off(model):
    """How far two sequences that decode in turn, each with its own cache, are from plain forwards; and one alone."""
    one, other = torch.arange(3, 13)[None], torch.arange(30, 50)[None]
    right = model(input_ids=one, use_cache=False).logits[0, -1]

    def begun(ids):
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, :-1], cache=cache, use_cache=True, position_ids=torch.arange(ids.shape[1] - 1)[None])
        return cache

    def ended(ids, cache):
        at = torch.tensor([[ids.shape[1] - 1]])
        return model(input_ids=ids[:, -1:], cache=cache, use_cache=True, position_ids=at).logits[0, -1]

    alone = ended(one, begun(one))
    first, second = begun(one), begun(other)
    ended(other, second)
    return [float((found - right).abs().max() / right.std()) for found in (alone, ended(one, first))]


with torch.inference_mode():
    llama = off(made(LlamaForCausalLM, LlamaConfig(**SIZES)))
    gemma = off(made(RecurrentGemmaForCausalLM, RecurrentGemmaConfig(**SIZES, lru_width=32, attention_window_size=64)))
print(f"off by: Llama alone {llama[0]:.1g}, in turn {llama[1]:.1g}; RecurrentGemma alone {gemma[0]:.1g}, in turn {gemma[1]:.1g}")
assert max(*llama, gemma[0]) < 1e-4 and gemma[1] > 0.1, "this behaviour has changed"
PY

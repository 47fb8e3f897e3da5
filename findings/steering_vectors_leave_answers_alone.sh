#!/usr/bin/env bash
# steering-vectors 0.12.2 with transformers 4.57.6, the newest that it takes (torch 2.15.0): apply(model,
# min_token_index=...) around generate.
#
# Expected: from that token on every position is steered, those of the answer among them, and use_cache changes nothing
# but the time, as it does in generate.
# Seen: with the cache, which generate uses by default, no token of the answer is steered as soon as min_token_index is 1
# or more. The index counts within each forward, and a step with a cache has one position, number 0. Steering "the answer
# only", from the prompt's length on, gives the unsteered model's scores to the last bit. With use_cache=False, and in
# one forward over prompt and answer, it is steered. Nothing is said. Without min_token_index all agree.
#
# Whom it bites: whoever steers answers and not prompts and finds no effect, or sets what was generated beside
# log-probabilities of the same text under the same steering.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet steering-vectors==0.12.2 transformers==4.57.6 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
from contextlib import nullcontext

import torch
from steering_vectors import SteeringVector
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

PROMPT = torch.tensor([[1, 2, 3, 4]])
LENGTH, NEW = PROMPT.shape[1], 8


def answered(model, steering, cached):
    with torch.no_grad(), steering():
        out = model.generate(
            PROMPT, max_new_tokens=NEW, do_sample=False, use_cache=cached, pad_token_id=0, eos_token_id=None,
            output_logits=True, return_dict_in_generate=True,
        )
    return out.sequences, torch.stack(out.logits, dim=1)[0]


def in_one_forward(model, steering, sequences):
    with torch.no_grad(), steering():
        return model(sequences).logits[0, LENGTH - 1 : -1]


def apart(one, other):
    return float((one - other).abs().max())


sizes = dict(vocab_size=50, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
for make in (
    lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, **sizes)),
    lambda: LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **sizes)
    ),
):
    torch.manual_seed(0)
    model = make().eval()
    vector = SteeringVector({0: torch.randn(32) * 5})
    plain, plain_scores = answered(model, nullcontext, True)
    for name, options in (("everywhere", {}), ("the answer", {"min_token_index": LENGTH})):
        def steering(options=options):
            return vector.apply(model, **options)

        tokens, scores = answered(model, steering, True)
        others, other_scores = answered(model, steering, False)
        off = apart(scores, in_one_forward(model, steering, tokens))
        other_off = apart(other_scores, in_one_forward(model, steering, others))
        print(f"{type(model).__name__}, steering {name}: {tokens[0, LENGTH:].tolist()} with the cache, "
              f"{others[0, LENGTH:].tolist()} without; from one forward {off:.3g} and {other_off:.3g}")
        assert other_off < 1e-3 and (off < 1e-3 if name == "everywhere" else off > 0.5)
        assert torch.equal(plain_scores, scores) == (name == "the answer")
        assert torch.equal(tokens, others) == (name == "everywhere")
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
